"""What a model keeps of a row, and how sure the model is of each value."""

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils.validation import _num_samples, check_array

from .._last_step import check_decodes_numbers, model_with
from .axes import (
    BLACK,
    BLUE,
    FEW_FEATURES,
    check_image_shape,
    grid_of_axes,
    legend_above,
    name_features,
    show_image,
)

MAX_ROWS = 50  # a figure of more panels takes long to draw and cannot be read


class ReconstructionDisplay:
    """Rows beside the mean and standard deviation of their reconstruction.

    Use :meth:`from_estimator` or :meth:`from_predictions` to make one.

    Parameters
    ----------
    original, mean, std : ndarray of shape (n_rows, n_features)
        The rows, and the mean and standard deviation of p(x' | x), in the units of the data.
    image_shape : tuple of int or None
        Height and width, if a row is an image.
    feature_names : array-like of str or None
        Names of the features.

    Attributes
    ----------
    axes_ : ndarray of Axes
        Of shape (n_rows, 1); for images of shape (3, n_rows): original, mean, std.
    figure_ : Figure
        The figure of the axes.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skgvae import GaussianVAE
    >>> from skgvae.display import ReconstructionDisplay
    >>> X, _ = load_iris(return_X_y=True)
    >>> vae = GaussianVAE(2, max_epochs=5, random_state=0).fit(X)
    >>> ReconstructionDisplay.from_estimator(vae, X[:3]).axes_.shape
    (3, 1)
    """

    def __init__(self, *, original, mean, std, image_shape=None, feature_names=None):
        self.original = original
        self.mean = mean
        self.std = std
        self.image_shape = image_shape
        self.feature_names = feature_names

    @classmethod
    def from_estimator(cls, estimator, X, *, image_shape=None, relative=False, ax=None):
        """Plot rows and their reconstructions.

        Parameters
        ----------
        estimator : GaussianVAE
            A fitted model, or a Pipeline or search that ends in one. Rows are drawn as the
            model sees them, after the other steps of the pipeline.
        X : array-like of shape (n_rows, n_features)
            The rows to draw, at most 50. More rows need an Axes for each panel in ``ax``.
        image_shape : tuple of int, default=None
            Height and width, if a row is an image.
        relative : bool, default=False
            Whether to draw deviations from the reconstruction, in its standard deviations. Use
            it if the columns have different units.
        ax : Axes or array-like of Axes, default=None
            Where to draw. One Axes is divided. None makes a figure.

        Returns
        -------
        ReconstructionDisplay
            The display.

        Raises
        ------
        TypeError
            If the estimator has no method ``reconstruct``.
        ValueError
            If there are more than 50 rows and no Axes for each panel.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        _check_few_rows(_num_samples(X), ax)
        estimator, X = model_with("reconstruct", cls.__name__, estimator, X)
        check_decodes_numbers(estimator, cls.__name__)
        mean, std = estimator.reconstruct(X, return_std=True)
        mean = np.asarray(mean)
        return cls.from_predictions(
            X,
            mean,
            std,
            image_shape=image_shape,
            feature_names=getattr(estimator, "feature_names_in_", None),
            relative=relative,
            ax=ax,
        )

    @classmethod
    def from_predictions(
        cls, original, mean, std, *, image_shape=None, feature_names=None, relative=False, ax=None
    ):
        """Plot rows and given reconstructions, for example from ``predict_target``.

        Parameters
        ----------
        original, mean, std : array-like of shape (n_rows, n_features)
            The rows, at most 50, and the mean and standard deviation of their reconstructions.
            More rows need an Axes for each panel in ``ax``.
        image_shape : tuple of int, default=None
            Height and width, if a row is an image.
        feature_names : array-like of str, default=None
            Names of the features.
        relative : bool, default=False
            Whether to draw deviations from the reconstruction, in its standard deviations.
        ax : Axes or array-like of Axes, default=None
            Where to draw. One Axes is divided. None makes a figure.

        Returns
        -------
        ReconstructionDisplay
            The display.
        """
        check_matplotlib_support(f"{cls.__name__}.from_predictions")
        original, mean, std = (check_array(a, dtype=np.float64) for a in (original, mean, std))
        if not original.shape == mean.shape == std.shape:
            raise ValueError(
                "original, mean and std must have the same shape, got "
                f"{original.shape}, {mean.shape} and {std.shape}."
            )
        if image_shape is not None:
            image_shape = check_image_shape(image_shape, original.shape[1])
        display = cls(
            original=original,
            mean=mean,
            std=std,
            image_shape=image_shape,
            feature_names=feature_names,
        )
        return display.plot(ax, relative=relative)

    def plot(self, ax=None, *, relative=False):
        """Draw images in three rows, or a profile of the features for each row.

        Parameters
        ----------
        ax : Axes or array-like of Axes, default=None
            Where to draw. One Axes is divided. None makes a figure.
        relative : bool, default=False
            Whether to draw deviations from the reconstruction, in its standard deviations.

        Returns
        -------
        ReconstructionDisplay
            The display.
        """
        _check_few_rows(len(self.original), ax)
        if self.image_shape is None:
            self.axes_ = self._plot_profiles(ax, relative)
        else:
            self.axes_ = self._plot_images(ax)
        self.figure_ = self.axes_[0, 0].figure
        return self

    def _plot_images(self, ax):
        n_rows = len(self.original)
        axes = grid_of_axes(ax, (3, n_rows), (0.8 * n_rows + 1, 2.8))
        low, high = self.original.min(), self.original.max()
        limits = {"vmin": min(low, self.mean.min()), "vmax": max(high, self.mean.max())}
        grey, heat = (
            {"cmap": "gray_r", **limits},
            {"cmap": "magma", "vmin": 0, "vmax": self.std.max()},
        )
        for row, (name, values, how) in enumerate(
            (
                ("original", self.original, grey),
                ("mean", self.mean, grey),
                ("std", self.std, heat),
            )
        ):
            for panel, image in zip(axes[row], values, strict=True):
                mappable = show_image(panel, image.reshape(self.image_shape), **how)
            axes[row, 0].set_ylabel(name)
            if name != "original":
                where = list(axes[:2].flat if name == "mean" else axes[2])
                axes[0, 0].figure.colorbar(mappable, ax=where, aspect=12 if name == "mean" else 6)
        return axes

    def _plot_profiles(self, ax, relative):
        n_rows, n_features = self.original.shape
        axes = grid_of_axes(ax, (n_rows, 1), (4.8, 1.2 * n_rows + 1), sharex=True)
        original, mean, std = self.original, self.mean, self.std
        if relative:
            original, mean, std = (original - mean) / std, 0 * mean, np.ones_like(std)
        position = np.arange(n_features)
        marker = "o" if n_features <= FEW_FEATURES else "."
        for row, panel in enumerate(axes[:, 0]):
            for width, alpha in ((2, 0.2), (1, 0.4)):
                panel.fill_between(
                    position,
                    mean[row] - width * std[row],
                    mean[row] + width * std[row],
                    color=BLUE,
                    alpha=alpha,
                    linewidth=0,
                    label=f"mean ± {width} std",
                )
            panel.plot(position, mean[row], color=BLUE, linewidth=1)
            panel.plot(
                position, original[row], marker, color=BLACK, markersize=4, label="original"
            )
            panel.set_ylabel("std of the\nreconstruction" if relative else "data units")
        legend_above(axes[0, 0], 3)
        name_features(axes[-1, 0], n_features, self.feature_names)
        return axes


def _check_few_rows(n_rows, ax):
    if n_rows > MAX_ROWS and np.size(ax) == 1:  # None, or one Axes to divide
        raise ValueError(
            f"Each row has a panel, so at most {MAX_ROWS} rows can be drawn, got {n_rows}. Pass "
            "a few rows, for example X[:6], or one Axes for each panel as ax."
        )
