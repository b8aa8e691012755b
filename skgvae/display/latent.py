"""Where rows lie in the latent space, and in which directions the decoder is blurry."""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils._optional_dependencies import check_matplotlib_support

from .._last_step import model_with
from .axes import (
    BLACK,
    BLUE,
    CLASS_COLOURS,
    check_components,
    legend_above,
    one_axes,
)

MARGIN = 0.08  # of the range of the rows, around a grid
SMALLEST = 1e-12  # eigenvalue that a logarithmic scale shows


class LatentSpaceDisplay:
    """Rows in a plane of the latent space, with a map of the decoder's noise.

    Use :meth:`from_estimator` to make one.

    Parameters
    ----------
    points : ndarray of shape (n_samples, 2)
        Posterior means in the plane.
    covariances : ndarray of shape (n_samples, 2, 2)
        Posterior covariances in the plane.
    y : ndarray of shape (n_samples,) or None
        Classes or numbers that the colours show.
    names : tuple of str
        Names of the two axes.
    grid : tuple of two ndarrays of shape (grid_resolution,) or None
        Coordinates of the background map.
    noise : ndarray of shape (grid_resolution, grid_resolution) or None
        The map: σ(z) divided by its average (the root of ``noise_variance_``), as the geometric
        mean over outputs. Rows belong to the second axis. The logarithm of the map is the
        entropy of p(v2 | z), in nats for each output, up to a constant. Dark regions are blurry.

    Attributes
    ----------
    ax_ : Axes
        The axes of the plot.
    figure_ : Figure
        The figure of the axes.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skgvae import GaussianVAE
    >>> from skgvae.display import LatentSpaceDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> vae = GaussianVAE(2, max_epochs=5, random_state=0).fit(X)
    >>> display = LatentSpaceDisplay.from_estimator(vae, X, y, background=True)
    >>> display.points.shape, display.noise.shape
    ((150, 2), (60, 60))
    """

    def __init__(self, *, points, covariances, y=None, names, grid=None, noise=None):
        self.points = points
        self.covariances = covariances
        self.y = y
        self.names = names
        self.grid = grid
        self.noise = noise

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        y=None,
        *,
        components=None,
        background=False,
        grid_resolution=60,
        ellipses=False,
        ax=None,
    ):
        """Plot the posterior of rows.

        Parameters
        ----------
        estimator : estimator
            A fitted model, or a Pipeline or search that ends in one.
        X : array-like of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,), default=None
            Colours: classes, or a number.
        components : pair of int or "pca", default=None
            The axes: two components, or the principal plane of the posterior means. None takes
            the two components that carry most information.
        background : bool, default=False
            Whether to map the decoder's standard deviation. If the latent space has more than
            two components, the plane passes through the mean of the rows.
        grid_resolution : int, default=60
            Points of the map along each axis.
        ellipses : bool, default=False
            Whether to draw the posterior of each row at one standard deviation.
        ax : Axes, default=None
            Where to draw. None makes a figure.

        Returns
        -------
        LatentSpaceDisplay
            The display.

        Raises
        ------
        TypeError
            If the estimator has no method ``encode``.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        estimator, X = model_with("encode", cls.__name__, estimator, X)
        if y is not None:
            y = column_or_1d(y)
            check_consistent_length(X, y)
        Z, std = estimator.encode(X, return_std=True)
        basis, names = _choose_plane(estimator, Z, components)
        points = Z @ basis.T
        grid = noise = None
        if background:
            grid = _grid(points, grid_resolution)
            centre = Z.mean(0)
            flat = np.stack(np.meshgrid(*grid), -1).reshape(-1, 2)
            noise = _relative_noise(estimator, centre + (flat - basis @ centre) @ basis)
            noise = noise.reshape(len(grid[1]), len(grid[0]))
        return cls(
            points=points,
            covariances=np.einsum("ak,nk,bk->nab", basis, std**2, basis),
            y=y,
            names=names,
            grid=grid,
            noise=noise,
        ).plot(ax, ellipses=ellipses)

    def plot(self, ax=None, *, ellipses=False):
        """Draw the plane.

        Parameters
        ----------
        ax : Axes, default=None
            Where to draw. None makes a figure.
        ellipses : bool, default=False
            Whether to draw the posterior of each row at one standard deviation.

        Returns
        -------
        LatentSpaceDisplay
            The display.
        """
        is_classes = self.y is not None and _is_classes(self.y)
        n_bars = (self.noise is not None) + (self.y is not None and not is_classes)
        ax = one_axes(ax, (4.0 + 0.8 * n_bars, 3.8))
        if self.noise is not None:
            _draw_map(ax, self.grid, self.noise)
        for rows, colours, label in _groups(ax, self.y, len(self.points)):
            if ellipses:
                _draw_ellipses(ax, self.points[rows], self.covariances[rows], colours, alpha=0.15)
            ax.scatter(*self.points[rows].T, c=colours, s=8, linewidths=0, label=label, zorder=3)
        if is_classes:
            legend_above(ax, 5)
        ax.set(xlabel=self.names[0], ylabel=self.names[1])
        self.ax_, self.figure_ = ax, ax.figure
        return self


class LatentDirectionsDisplay:
    """Blurry and sharp directions of the latent space.

    With two components, the display draws an ellipse at each point. All steps of z to this
    ellipse change what is decoded by the same amount, so the ellipse is long in the blurry
    direction and short in the sharp direction. All long axes have the same length. The colour
    shows how much a step in the blurry direction changes: √λ standard deviations of the noise
    per unit of z, where λ is the smaller eigenvalue. With more components, the display draws the
    √λ of all directions.

    Use :meth:`from_estimator` to make one.

    Parameters
    ----------
    Z : ndarray of shape (n_points, n_components)
        Points of the latent space.
    eigenvalues : ndarray of shape (n_points, n_components)
        Eigenvalues of the metric at the points, in ascending order, from
        ``latent_directions``.
    directions : ndarray of shape (n_points, n_components, n_components)
        Eigenvectors of the metric, in rows.

    Attributes
    ----------
    ax_ : Axes
        The axes of the plot.
    figure_ : Figure
        The figure of the axes.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skgvae import GaussianVAE
    >>> from skgvae.display import LatentDirectionsDisplay
    >>> X, _ = load_iris(return_X_y=True)
    >>> vae = GaussianVAE(2, max_epochs=5, random_state=0).fit(X)
    >>> LatentDirectionsDisplay.from_estimator(vae, X).eigenvalues.shape
    (100, 2)
    """

    def __init__(self, *, Z, eigenvalues, directions):
        self.Z = Z
        self.eigenvalues = eigenvalues
        self.directions = directions

    @classmethod
    def from_estimator(cls, estimator, X, *, grid_resolution=10, ax=None):
        """Plot the directions of a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            A fitted model, or a Pipeline or search that ends in one.
        X : array-like of shape (n_samples, n_features)
            Rows. They define the region of the latent space to draw.
        grid_resolution : int or None, default=10
            Points along each axis of a grid over the range of the rows. None, or a model with
            more than two components, takes the rows themselves.
        ax : Axes, default=None
            Where to draw. None makes a figure.

        Returns
        -------
        LatentDirectionsDisplay
            The display.

        Raises
        ------
        TypeError
            If the estimator has no method ``latent_directions``.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        estimator, X = model_with("latent_directions", cls.__name__, estimator, X)
        Z = estimator.transform(X)
        if Z.shape[1] == 2 and grid_resolution is not None:
            Z = np.stack(np.meshgrid(*_grid(Z, grid_resolution)), -1).reshape(-1, 2)
        eigenvalues, directions = estimator.latent_directions(Z)
        return cls(Z=Z, eigenvalues=eigenvalues, directions=directions).plot(ax)

    def plot(self, ax=None):
        """Draw ellipses if there are two components, otherwise the spectrum.

        Parameters
        ----------
        ax : Axes, default=None
            Where to draw. None makes a figure.

        Returns
        -------
        LatentDirectionsDisplay
            The display.
        """
        ax = one_axes(ax)
        if self.Z.shape[1] == 2:
            self._plot_plane(ax)
        else:
            self._plot_spectrum(ax)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _plot_plane(self, ax):
        import matplotlib as mpl

        # True lengths differ by orders of magnitude, so the colour shows them and all long axes
        # have one length.
        roots = np.sqrt(np.maximum(self.eigenvalues, SMALLEST))
        blur, shorter = roots[:, 0], roots[:, 0] / roots[:, 1]
        room = 0.45 * np.ptp(self.Z, axis=0).min() / np.sqrt(len(self.Z))
        axes = room * np.stack([np.ones_like(shorter), shorter], 1)[..., None] * self.directions
        norm = mpl.colors.LogNorm(blur.min(), blur.max())
        colours = mpl.cm.ScalarMappable(norm, "viridis_r")
        _draw_ellipses(ax, self.Z, axes.mT @ axes, colours.to_rgba(blur), edgecolors="face")
        bar = ax.figure.colorbar(
            colours,
            ax=ax,
            label="√λ, std of the noise per unit of z",
            ticks=mpl.ticker.LogLocator(subs=(1, 2, 5)),
            format="%g",
        )
        bar.minorticks_off()
        ax.autoscale_view()
        ax.set(xlabel="component 0", ylabel="component 1")

    def _plot_spectrum(self, ax):
        low, middle, high = np.quantile(
            np.sqrt(np.maximum(self.eigenvalues, SMALLEST)), [0.05, 0.5, 0.95], axis=0
        )
        rank = np.arange(1, len(middle) + 1)
        ax.fill_between(rank, low, high, color=BLUE, alpha=0.25, linewidth=0,
                        label="90 % of the points")  # fmt: skip
        ax.plot(rank, middle, "o-", color=BLUE, markersize=3, label="median")
        ax.axhline(
            1, color=BLACK, linestyle=":", linewidth=1, label="below, the noise hides a unit step"
        )
        ax.set(
            yscale="log",
            xlabel="direction, blurriest first",
            ylabel="√λ, std of the noise per unit of z",
        )
        ax.legend(fontsize="small")


def _choose_plane(estimator, Z, components):
    """Return the two unit vectors of a plane, and what their coordinates are called."""
    width = Z.shape[1]
    if width < 2:
        raise ValueError(
            "A plane needs a latent space of two components at least, but n_components is 1."
        )
    if isinstance(components, str):
        if components != "pca":
            raise ValueError(f"components must be two numbers or 'pca', got {components!r}.")
        return PCA(2).fit(Z).components_, ("1st principal axis of z", "2nd principal axis of z")
    if components is None:
        components = np.sort(np.argsort(-estimator.kl_per_component_, kind="stable")[:2])
    components = check_components(components, width)
    if len(components) != 2:
        raise ValueError(f"components must be two, got {components.tolist()!r}.")
    return np.eye(width)[components], tuple(f"component {i}" for i in components)


def _grid(points, resolution):
    """Return coordinates along both axes, a little beyond the points."""
    low, high = points.min(0), points.max(0)
    margin = np.where(high > low, MARGIN * (high - low), 1.0)
    return tuple(np.linspace(low - margin, high + margin, resolution).T)


def _relative_noise(estimator, Z):
    _, std = estimator.decode(Z, return_std=True)
    ratio = std.reshape(len(Z), -1) / np.sqrt(estimator.noise_variance_)
    return np.exp(np.log(ratio).mean(1))


def _draw_map(ax, grid, noise):
    import matplotlib as mpl

    # Only the lighter greys, so that points stay visible on the darkest of them.
    greys = mpl.colors.ListedColormap(mpl.colormaps["Greys"](np.linspace(0, 0.6, 256)))
    mesh = ax.pcolormesh(*grid, noise, cmap=greys, shading="gouraud", rasterized=True)
    ax.figure.colorbar(mesh, ax=ax, label="σ(z) over its average")


def _is_classes(y):
    if y.dtype.kind not in "iuf":
        return True
    return len(np.unique(y)) <= len(CLASS_COLOURS) and np.all(y == np.round(y))


def _groups(ax, y, n):
    """Yield rows, their colours and a label; draw a colour bar for numbers."""
    import matplotlib as mpl

    if y is None:
        yield slice(None), BLUE, None
    elif _is_classes(y):
        for i, value in enumerate(np.unique(y)):
            yield y == value, CLASS_COLOURS[i % len(CLASS_COLOURS)], str(value)
    else:
        colours = mpl.cm.ScalarMappable(mpl.colors.Normalize(y.min(), y.max()), "viridis")
        ax.figure.colorbar(colours, ax=ax, label="y")
        yield slice(None), colours.to_rgba(y), None


def _draw_ellipses(ax, points, covariances, colours, **kwargs):
    """Draw the ellipses of one standard deviation."""
    from matplotlib.collections import EllipseCollection

    variances, axes = np.linalg.eigh(covariances)
    widths = 2 * np.sqrt(np.maximum(variances, 0))  # a flat one may be rounded to below zero
    angles = np.degrees(np.arctan2(axes[:, 1, 1], axes[:, 0, 1]))
    ax.add_collection(
        EllipseCollection(
            widths[:, 1],
            widths[:, 0],
            angles,
            units="xy",
            offsets=points,
            offset_transform=ax.transData,
            facecolors=colours,
            **kwargs,
        )
    )
