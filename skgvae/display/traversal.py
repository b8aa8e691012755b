"""How what is decoded changes while z moves."""

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support

from .._last_step import check_decodes_numbers, model_with
from .._vae import GaussianVAE
from .axes import (
    GREY,
    check_components,
    check_image_shape,
    grid_of_axes,
    name_features,
    show_image,
)


class LatentTraversalDisplay:
    """What is decoded while one component of z moves and the others stay.

    Use :meth:`from_estimator` to make one.

    Parameters
    ----------
    components : ndarray of shape (n_shown,)
        The components that move.
    values : ndarray of shape (n_steps,)
        Distances of the steps from the start.
    mean : ndarray of shape (n_shown, n_steps, n_outputs)
        The decoder's means, in the units of v2.
    start : ndarray of shape (n_outputs,)
        The decoder's mean at the start.
    noise_scale : ndarray of shape (n_outputs,)
        Average standard deviation of the decoder.
    image_shape : tuple of int or None
        Height and width, if v2 is an image.
    feature_names : array-like of str or None
        Names of the outputs.

    Attributes
    ----------
    axes_ : ndarray of Axes
        Of shape (n_shown, 1); for images of shape (n_shown, n_steps).
    figure_ : Figure
        The figure of the axes.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skgvae import GaussianVAE
    >>> from skgvae.display import LatentTraversalDisplay
    >>> X, _ = load_iris(return_X_y=True)
    >>> vae = GaussianVAE(2, max_epochs=5, random_state=0).fit(X)
    >>> LatentTraversalDisplay.from_estimator(vae, n_steps=5).mean.shape
    (2, 5, 4)
    """

    def __init__(
        self,
        *,
        components,
        values,
        mean,
        start,
        noise_scale,
        image_shape=None,
        feature_names=None,
    ):
        self.components = components
        self.values = values
        self.mean = mean
        self.start = start
        self.noise_scale = noise_scale
        self.image_shape = image_shape
        self.feature_names = feature_names

    @classmethod
    def from_estimator(
        cls,
        estimator,
        *,
        start=None,
        components=None,
        span=2.0,
        n_steps=7,
        image_shape=None,
        ax=None,
    ):
        """Plot traversals of the latent space of a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            A fitted model, or a Pipeline or search that ends in one.
        start : array-like of shape (n_components,), default=None
            The point from which z moves, as a row of ``transform``. None is the origin.
        components : array-like of int, default=None
            The components that move. None takes the active components, at most six. The
            component with the largest ``kl_per_component_`` comes first.
        span : float, default=2.0
            How far z moves to either side. With a standard normal prior, the unit is the
            standard deviation of the prior.
        n_steps : int, default=7
            Points of each traversal. An odd number includes the start.
        image_shape : tuple of int, default=None
            Height and width, if v2 is an image.
        ax : Axes or array-like of Axes, default=None
            Where to draw. One Axes is divided. None makes a figure.

        Returns
        -------
        LatentTraversalDisplay
            The display.

        Raises
        ------
        TypeError
            If the estimator has no method ``decode``.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        estimator, _ = model_with("decode", cls.__name__, estimator, None)
        width = estimator.n_components_
        start = np.zeros(width) if start is None else np.asarray(start, dtype=np.float64)
        if start.shape != (width,):
            raise ValueError(f"start must hold {width} numbers, got shape {start.shape}.")
        if components is None:
            order = np.argsort(-estimator.kl_per_component_, kind="stable")
            components = order[: np.clip(estimator.n_active_components_, 1, 6)]
        components = check_components(components, width)
        values = np.linspace(-span, span, n_steps)
        steps = values[:, None] * np.eye(width)[components][:, None]
        Z = np.vstack([start[None], (start + steps).reshape(-1, width)])
        check_decodes_numbers(estimator, cls.__name__)
        decoded = estimator.decode(Z).reshape(len(Z), -1)
        if image_shape is not None:
            image_shape = check_image_shape(image_shape, decoded.shape[1])
        is_vae = isinstance(estimator, GaussianVAE)
        return cls(
            components=components,
            values=values,
            mean=decoded[1:].reshape(len(components), n_steps, -1),
            start=decoded[0],
            noise_scale=np.sqrt(estimator.noise_variance_),
            image_shape=image_shape,
            feature_names=getattr(estimator, "feature_names_in_", None) if is_vae else None,
        ).plot(ax)

    def plot(self, ax=None):
        """Draw a row of images for each component, or a panel of feature profiles.

        Profiles show the change of the mean from the start, in standard deviations of the
        decoder's noise. A change below one is smaller than the noise.

        Parameters
        ----------
        ax : Axes or array-like of Axes, default=None
            Where to draw. One Axes is divided. None makes a figure.

        Returns
        -------
        LatentTraversalDisplay
            The display.
        """
        self.axes_ = self._plot_profiles(ax) if self.image_shape is None else self._plot_images(ax)
        self.figure_ = self.axes_[0, 0].figure
        return self

    def _plot_images(self, ax):
        n_shown, n_steps = self.mean.shape[:2]
        axes = grid_of_axes(ax, (n_shown, n_steps), (0.75 * n_steps + 0.5, 0.75 * n_shown + 0.6))
        limits = {"vmin": self.mean.min(), "vmax": self.mean.max()}
        for component, images, row in zip(self.components, self.mean, axes, strict=True):
            for panel, image in zip(row, images, strict=True):
                show_image(panel, image.reshape(self.image_shape), cmap="gray_r", **limits)
            row[0].set_ylabel(f"z{component}")
        for panel, value in zip(axes[-1], self.values, strict=True):
            panel.set_xlabel(f"{value:+.2g}")
        return axes

    def _plot_profiles(self, ax):
        import matplotlib as mpl

        n_shown, _, n_outputs = self.mean.shape
        axes = grid_of_axes(ax, (n_shown, 1), (4.8, 1.3 * n_shown + 1), sharex=True)
        colours = mpl.cm.ScalarMappable(
            mpl.colors.Normalize(self.values.min(), self.values.max()), "cividis"
        )
        change = (self.mean - self.start) / self.noise_scale
        for component, profiles, panel in zip(self.components, change, axes[:, 0], strict=True):
            for value, profile in zip(self.values, profiles, strict=True):
                panel.plot(np.arange(n_outputs), profile, "o-", markersize=3,
                           linewidth=1, color=colours.to_rgba(value))  # fmt: skip
            panel.axhspan(-1, 1, color=GREY, alpha=0.25, linewidth=0)
            panel.set_ylabel(f"z{component}")
        axes[0, 0].set_title("change of the mean, in std of the noise", fontsize="medium")
        axes[0, 0].figure.colorbar(colours, ax=list(axes[:, 0]), label="change of z")
        name_features(axes[-1, 0], n_outputs, self.feature_names)
        return axes
