"""How training went, and which components of the latent space the model uses."""

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support

from .._fit import ACTIVE_KL
from .._last_step import model_with
from .axes import BLACK, BLUE, GREY, ORANGE, grid_of_axes, legend_above, one_axes

PARTS = {"loss": "loss", "reconstruction": "reconstruction", "kl": "KL divergence"}


class TrainingCurveDisplay:
    """The loss of each epoch and its two parts, on training and held-out rows.

    If several models were trained together, the curves are averages over them. Use
    :meth:`from_estimator` to make one.

    Parameters
    ----------
    train : ndarray of shape (n_epochs, 3)
        Loss, reconstruction (the negative log density) and KL divergence of each epoch, in
        nats a row, in standardised units. In the loss, the KL divergence is multiplied by
        ``kl_weight``. The loss may have further parts.
    valid : ndarray of shape (n_epochs, 3) or None
        The same on held-out rows.
    best_epoch : int
        Epoch whose weights are kept, counted from 1. 0 means the start.

    Attributes
    ----------
    axes_ : ndarray of shape (3,) of Axes
        Panels of loss, reconstruction and KL.
    figure_ : Figure
        The figure of the axes.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skgvae import GaussianVAE
    >>> from skgvae.display import TrainingCurveDisplay
    >>> X, _ = load_iris(return_X_y=True)
    >>> vae = GaussianVAE(2, max_epochs=5, random_state=0).fit(X)
    >>> TrainingCurveDisplay.from_estimator(vae).train.shape
    (5, 3)
    """

    def __init__(self, *, train, valid, best_epoch):
        self.train = train
        self.valid = valid
        self.best_epoch = best_epoch

    @classmethod
    def from_estimator(cls, estimator, *, ax=None):
        """Plot the history of a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            A fitted model, or a Pipeline or search that ends in one.
        ax : Axes or array-like of 3 Axes, default=None
            Where to draw. One Axes is divided. None makes a figure.

        Returns
        -------
        TrainingCurveDisplay
            The display.

        Raises
        ------
        TypeError
            If the estimator has no ``history_``.
        ValueError
            If the model was trained for no epoch.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        estimator, _ = model_with("history_", cls.__name__, estimator, None)
        history = estimator.history_
        if not history:
            raise ValueError("The model was trained for no epoch, so there is no curve to draw.")

        def values(prefix):
            # partial_fit has no held-out rows, but fit may have had some before.
            names = [f"{prefix}_{part}" for part in PARTS]
            return np.array([[record.get(name, np.nan) for name in names] for record in history])

        valid = values("valid") if any("valid_loss" in record for record in history) else None
        return cls(train=values("train"), valid=valid, best_epoch=estimator.best_epoch_).plot(ax)

    def plot(self, ax=None):
        """Draw three panels.

        Parameters
        ----------
        ax : Axes or array-like of 3 Axes, default=None
            Where to draw. One Axes is divided. None makes a figure.

        Returns
        -------
        TrainingCurveDisplay
            The display.
        """
        axes = grid_of_axes(ax, (3, 1), (4.8, 5.4), sharex=True)[:, 0]
        # Without held-out rows, the last epoch is kept.
        row = max(self.best_epoch, 1) - 1
        held_out = self.valid is not None and np.isfinite(self.valid[row, 0])
        kept = "best epoch" if held_out else "epoch kept"
        epochs = np.arange(1, len(self.train) + 1)
        for j, (panel, title) in enumerate(zip(axes, PARTS.values(), strict=True)):
            panel.plot(epochs, self.train[:, j], color=BLUE, label="training rows")
            if self.valid is not None:
                panel.plot(epochs, self.valid[:, j], "--", color=ORANGE, label="held-out rows")
            panel.axvline(self.best_epoch, color=BLACK, linestyle=":", linewidth=1,
                          label=f"{kept}, {self.best_epoch}")  # fmt: skip
            panel.set(ylabel=f"{title}\nnats a row")
            panel.grid(alpha=0.2)
        legend_above(axes[0], 3)
        axes[-1].set(xlabel="epoch")
        self.axes_, self.figure_ = axes, axes[0].figure
        return self


class KLPerComponentDisplay:
    """The information that each component of the latent space carries.

    Use :meth:`from_estimator` to make one.

    Parameters
    ----------
    kl : ndarray of shape (n_components,)
        Average KL divergence of each component, in nats.
    components : ndarray of shape (n_components,)
        Numbers of the components, in the order of the bars.

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
    >>> from skgvae.display import KLPerComponentDisplay
    >>> X, _ = load_iris(return_X_y=True)
    >>> vae = GaussianVAE(max_epochs=5, random_state=0).fit(X)
    >>> KLPerComponentDisplay.from_estimator(vae).kl.shape
    (4,)
    """

    def __init__(self, *, kl, components):
        self.kl = kl
        self.components = components

    @classmethod
    def from_estimator(cls, estimator, *, sort=True, ax=None):
        """Plot ``kl_per_component_`` of a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            A fitted model, or a Pipeline or search that ends in one.
        sort : bool, default=True
            Whether the largest comes first.
        ax : Axes, default=None
            Where to draw. None makes a figure.

        Returns
        -------
        KLPerComponentDisplay
            The display.

        Raises
        ------
        TypeError
            If the estimator has no ``kl_per_component_``.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        estimator, _ = model_with("kl_per_component_", cls.__name__, estimator, None)
        kl = estimator.kl_per_component_
        order = np.argsort(-kl, kind="stable") if sort else np.arange(len(kl))
        return cls(kl=kl[order], components=order).plot(ax)

    def plot(self, ax=None):
        """Draw a bar for each component.

        Parameters
        ----------
        ax : Axes, default=None
            Where to draw. None makes a figure.

        Returns
        -------
        KLPerComponentDisplay
            The display.
        """
        ax = one_axes(ax, (4.8, 3.2))
        position = np.arange(len(self.kl))
        active = self.kl > ACTIVE_KL
        for chosen, colour, label in (
            (active, BLUE, f"active, over {ACTIVE_KL} nats: {active.sum()}"),
            (~active, GREY, f"unused: {(~active).sum()}"),
        ):
            if chosen.any():
                ax.bar(position[chosen], self.kl[chosen], color=colour, label=label)
        for x, value in zip(position[~active], self.kl[~active], strict=True):
            ax.plot(x, value, ".", color=GREY)  # a bar of no height cannot be seen
        step = -(-len(self.kl) // 20)
        ax.set_xticks(position[::step], self.components[::step])
        ax.set(
            xlabel="latent component",
            ylabel="KL divergence, nats a row",
            title=f"{self.kl.sum():.3g} nats in all",
        )
        ax.legend(fontsize="small")
        self.ax_, self.figure_ = ax, ax.figure
        return self
