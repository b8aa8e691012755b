"""Prediction intervals, and whether they are calibrated."""

from numbers import Integral

import numpy as np
from scipy import stats
from sklearn.utils import check_array, column_or_1d
from sklearn.utils._optional_dependencies import check_matplotlib_support

from .._last_step import check_predicts_std, last_step
from .._regressor import GaussianVAERegressor
from ..metrics import probability_integral_transform
from .axes import BLACK, BLUE, ORANGE, grid_of_axes, legend_above, one_axes


class PredictiveIntervalDisplay:
    """Central prediction intervals of one or several coverages, and where y was.

    Use :meth:`from_estimator` or :meth:`from_predictions` to make one.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
        Targets.
    mean : ndarray of shape (n_samples,)
        Predictive means.
    intervals : ndarray of shape (n_samples, n_coverages, 2)
        Lower and upper ends.
    coverages : ndarray of shape (n_coverages,)
        Their nominal probabilities.
    x : ndarray of shape (n_samples,) or None
        Positions of the rows. None draws the rows in the order of their means.
    x_name : str or None
        Name of x.

    Attributes
    ----------
    ax_ : Axes
        The axes of the plot.
    figure_ : Figure
        The figure of the axes.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from skgvae import GaussianVAERegressor
    >>> from skgvae.display import PredictiveIntervalDisplay
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = GaussianVAERegressor(max_epochs=5, random_state=0).fit(X[:300], y[:300])
    >>> PredictiveIntervalDisplay.from_estimator(model, X[300:], y[300:]).intervals.shape
    (142, 2, 2)
    """

    def __init__(self, *, y, mean, intervals, coverages, x=None, x_name=None):
        self.y = y
        self.mean = mean
        self.intervals = intervals
        self.coverages = coverages
        self.x = x
        self.x_name = x_name

    @classmethod
    def from_estimator(
        cls, estimator, X, y, *, coverages=(0.5, 0.9), feature=None, target=None, ax=None
    ):
        """Plot the intervals of a fitted regressor.

        Parameters
        ----------
        estimator : estimator
            A fitted :class:`~skgvae.GaussianVAERegressor`, or a regressor whose ``predict``
            has the parameter ``return_std``, or a Pipeline or search that ends in one. The
            prediction of another regressor is taken as a Gaussian.
        X : array-like of shape (n_samples, n_features)
            Rows that were not used in training.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Targets.
        coverages : float or array-like of float, default=(0.5, 0.9)
            Probabilities of the intervals, in (0, 1). Several make a fan.
        feature : int or str, default=None
            Column of X along which to draw. None draws the rows in the order of their means.
        target : int, default=None
            Column of y, needed if y has several.
        ax : Axes, default=None
            Where to draw. None makes a figure.

        Returns
        -------
        PredictiveIntervalDisplay
            The display.

        Raises
        ------
        TypeError
            If the estimator has no ``predict`` with the parameter ``return_std``.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        coverages = _check_coverages(coverages)
        x, x_name = (None, None) if feature is None else _column(X, feature)
        mean, intervals = _predict(estimator, X, coverages)
        return cls.from_predictions(
            _choose_target(y, target),
            _choose_target(mean, target),
            intervals if np.ndim(mean) == 1 else intervals[:, target],
            coverages=coverages,
            x=x,
            x_name=x_name,
            ax=ax,
        )

    @classmethod
    def from_predictions(cls, y, mean, intervals, *, coverages=0.9, x=None, x_name=None, ax=None):
        """Plot given intervals, of any model.

        Parameters
        ----------
        y, mean : array-like of shape (n_samples,)
            Targets and their predictive means.
        intervals : array-like of shape (n_samples, 2) or (n_samples, n_coverages, 2)
            Lower and upper ends.
        coverages : float or array-like of shape (n_coverages,), default=0.9
            Their nominal probabilities, in (0, 1).
        x : array-like of shape (n_samples,), default=None
            Positions of the rows. None draws the rows in the order of their means.
        x_name : str, default=None
            Name of x.
        ax : Axes, default=None
            Where to draw. None makes a figure.

        Returns
        -------
        PredictiveIntervalDisplay
            The display.
        """
        check_matplotlib_support(f"{cls.__name__}.from_predictions")
        coverages = _check_coverages(coverages)
        y, mean = column_or_1d(y), column_or_1d(mean)
        intervals = np.asarray(intervals, dtype=np.float64)
        if intervals.size != len(y) * len(coverages) * 2 or len(mean) != len(y):
            raise ValueError(
                f"intervals of shape {intervals.shape} and {len(mean)} means do not fit "
                f"{len(y)} targets and {len(coverages)} coverages."
            )
        return cls(
            y=y,
            mean=mean,
            intervals=intervals.reshape(len(y), len(coverages), 2),
            coverages=coverages,
            x=None if x is None else column_or_1d(x),
            x_name=x_name,
        ).plot(ax)

    def plot(self, ax=None):
        """Draw the intervals, and mark the targets outside of the widest interval.

        Parameters
        ----------
        ax : Axes, default=None
            Where to draw. None makes a figure.

        Returns
        -------
        PredictiveIntervalDisplay
            The display.
        """
        import matplotlib as mpl

        ax = one_axes(ax, (4.8, 4.0))
        blues = mpl.colormaps["Blues"](np.linspace(0.2, 0.5, len(self.coverages)))
        x = self.x
        if x is None:
            x = np.empty(len(self.y), int)
            x[np.argsort(self.mean, kind="stable")] = np.arange(len(x))
        order = np.argsort(x, kind="stable")
        x, y, mean = x[order], self.y[order], self.mean[order]
        for rank, i in enumerate(np.argsort(-self.coverages, kind="stable")):
            low, high = self.intervals[order, i].T
            inside = (low <= y) & (y <= high)
            style = {
                "color": blues[rank],
                "label": f"{self.coverages[i]:.3g} interval, holds {inside.mean():.2f}",
            }
            if self.x is None:
                ax.fill_between(x, low, high, linewidth=0, **style)
            else:  # no band, because the interval does not depend on x alone
                ax.vlines(x, low, high, linewidth=2 + 1.5 * rank, **style)
            if rank == 0:
                outside = ~inside
        ax.plot(x, mean, **_mean_style(self.x is None), label="predictive mean")
        ax.plot(x[~outside], y[~outside], ".", color=BLACK, markersize=4, label="y")
        ax.plot(x[outside], y[outside], "x", color=ORANGE, markersize=5, label="y outside")
        ax.set(xlabel=self.x_name or "rows, by predictive mean", ylabel="y, data units")
        legend_above(ax, 2)
        self.ax_, self.figure_ = ax, ax.figure
        return self


class PITDisplay:
    r"""Calibration: the histogram of F(y | x) and its distribution function.

    If the predictive distribution functions F are right, the probability integral transform
    F(y | x) is uniform: the histogram is flat and the curve is the diagonal. A histogram like a
    U means that intervals are too narrow, and a histogram like a hill that they are too wide. A
    slope means bias. The bands are pointwise: if the model is right and rows are independent,
    each count and each share lies in its own band with the given probability.

    Use :meth:`from_estimator` or :meth:`from_predictions` to make one.

    Parameters
    ----------
    pit : ndarray of shape (n_samples,)
        F(y | x).
    counts : ndarray of shape (n_bins,)
        Histogram on equal bins of [0, 1].
    count_band : ndarray of shape (2,)
        Ends of the band of each count, by the binomial distribution.
    levels : ndarray of shape (n_levels,)
        Probabilities p.
    observed : ndarray of shape (n_levels,)
        Share of rows with F(y | x) at most p.
    observed_band : ndarray of shape (n_levels, 2)
        Ends of the band of each share.
    confidence : float
        Probability of the bands.

    Attributes
    ----------
    axes_ : ndarray of shape (2,) of Axes
        Histogram and reliability curve.
    figure_ : Figure
        The figure of the axes.

    References
    ----------
    Gneiting, Balabdaoui & Raftery, "Probabilistic forecasts, calibration and sharpness", 2007,
    doi:10.1111/j.1467-9868.2007.00587.x.

    Examples
    --------
    >>> import numpy as np
    >>> from skgvae.display import PITDisplay
    >>> PITDisplay.from_predictions(np.linspace(0.01, 0.99, 50)).counts
    array([5, 5, 5, 5, 5, 5, 5, 5, 5, 5])
    """

    def __init__(self, *, pit, counts, count_band, levels, observed, observed_band, confidence):
        self.pit = pit
        self.counts = counts
        self.count_band = count_band
        self.levels = levels
        self.observed = observed
        self.observed_band = observed_band
        self.confidence = confidence

    @classmethod
    def from_estimator(cls, estimator, X, y, *, target=None, n_bins=10, confidence=0.95, ax=None):
        """Plot the calibration of a fitted regressor.

        Parameters
        ----------
        estimator : estimator
            As for :func:`~skgvae.metrics.probability_integral_transform`.
        X : array-like of shape (n_samples, n_features)
            Rows that were not used in training.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Targets.
        target : int, default=None
            Column of y, needed if y has several.
        n_bins : int, default=10
            Bars of the histogram.
        confidence : float, default=0.95
            Probability of the bands, in (0, 1).
        ax : Axes or array-like of 2 Axes, default=None
            Where to draw. One Axes is divided. None makes a figure.

        Returns
        -------
        PITDisplay
            The display.

        Raises
        ------
        TypeError
            If the estimator has no ``predict`` with the parameter ``return_std``.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        pit = _choose_target(probability_integral_transform(estimator, X, y), target)
        return cls.from_predictions(pit, n_bins=n_bins, confidence=confidence, ax=ax)

    @classmethod
    def from_predictions(cls, pit, *, n_bins=10, confidence=0.95, ax=None):
        """Plot given values of F(y | x), of any model.

        Parameters
        ----------
        pit : array-like of shape (n_samples,)
            Values in [0, 1].
        n_bins : int, default=10
            Bars of the histogram.
        confidence : float, default=0.95
            Probability of the bands, in (0, 1).
        ax : Axes or array-like of 2 Axes, default=None
            Where to draw. One Axes is divided. None makes a figure.

        Returns
        -------
        PITDisplay
            The display.
        """
        check_matplotlib_support(f"{cls.__name__}.from_predictions")
        pit = column_or_1d(check_array(pit, ensure_2d=False, dtype=np.float64, input_name="pit"))
        if pit.min() < 0 or pit.max() > 1:
            raise ValueError(f"pit must lie in [0, 1], got [{pit.min():g}, {pit.max():g}].")
        if not 0 < confidence < 1:
            raise ValueError(f"confidence must lie in (0, 1), got {confidence!r}.")
        n, levels = len(pit), np.linspace(0, 1, 101)
        return cls(
            pit=pit,
            counts=np.histogram(pit, n_bins, (0, 1))[0],
            count_band=np.array(stats.binom.interval(confidence, n, 1 / n_bins)),
            levels=levels,
            observed=np.searchsorted(np.sort(pit), levels, side="right") / n,
            observed_band=np.column_stack(stats.binom.interval(confidence, n, levels)) / n,
            confidence=confidence,
        ).plot(ax)

    def plot(self, ax=None):
        """Draw histogram and reliability curve.

        Parameters
        ----------
        ax : Axes or array-like of 2 Axes, default=None
            Where to draw. One Axes is divided. None makes a figure.

        Returns
        -------
        PITDisplay
            The display.
        """
        axes = grid_of_axes(ax, (1, 2), (6.4, 3.0))[0]
        n, n_bins = len(self.pit), len(self.counts)
        edges = np.linspace(0, 1, n_bins + 1)
        band = {"color": BLACK, "alpha": 0.15, "linewidth": 0}
        calibrated = {"color": BLACK, "linestyle": "--", "linewidth": 1}
        axes[0].axhspan(*self.count_band, **band)
        axes[0].stairs(self.counts, edges, fill=True, color=BLUE, alpha=0.4)
        axes[0].stairs(self.counts, edges, color=BLUE, linewidth=1.5)
        for end in self.count_band:  # the bars would hide the ends of the band
            axes[0].axhline(end, color=BLACK, linewidth=0.5)
        axes[0].axhline(n / n_bins, **calibrated)
        axes[0].set(xlim=(0, 1), xlabel="F(y | x)", ylabel="rows")
        axes[1].fill_between(self.levels, *self.observed_band.T, **band,
                             label=f"{self.confidence:.0%} band, pointwise")  # fmt: skip
        axes[1].plot([0, 1], [0, 1], **calibrated, label="calibrated")
        axes[1].plot(self.levels, self.observed, color=BLUE, label=f"{n} rows")
        axes[1].set(xlim=(0, 1), ylim=(0, 1), xlabel="p", ylabel="share of rows with F(y | x) ≤ p")
        axes[1].set_aspect("equal")
        axes[1].legend(fontsize="small")
        self.axes_, self.figure_ = axes, axes[0].figure
        return self


def _mean_style(is_sorted):
    style = {"color": BLUE}
    return style | ({"linewidth": 1.5} if is_sorted else {"linestyle": "", "marker": "_"})


def _check_coverages(coverages):
    coverages = np.atleast_1d(np.asarray(coverages, dtype=np.float64))
    if coverages.ndim > 1 or not len(coverages) or not np.all((coverages > 0) & (coverages < 1)):
        raise ValueError(f"coverages must be numbers in (0, 1), got {coverages.tolist()!r}.")
    return coverages


def _predict(estimator, X, coverages):
    """Return means, and intervals of shape (n[, n_targets], n_coverages, 2)."""
    last, X = last_step(estimator, X)
    quantiles = np.column_stack([0.5 - coverages / 2, 0.5 + coverages / 2])
    if isinstance(last, GaussianVAERegressor):
        mean, found = last.predict(X), last.predict_quantiles(X, quantiles.ravel())
    else:
        check_predicts_std(last)
        mean, std = last.predict(X, return_std=True)
        found = mean[..., None] + std[..., None] * stats.norm.ppf(quantiles.ravel())
    return mean, found.reshape(*mean.shape, len(coverages), 2)


def _choose_target(values, target):
    values = np.asarray(values)
    if values.ndim == 1:
        return values
    if not isinstance(target, Integral) or not 0 <= target < values.shape[1]:
        raise ValueError(
            f"target must be one of the {values.shape[1]} columns of y, 0 to "
            f"{values.shape[1] - 1}, got {target!r}."
        )
    return values[:, target]


def _column(X, feature):
    """Return a column of X by number or name, and what it is called."""
    names = list(getattr(X, "columns", ()))
    if isinstance(feature, str):
        if feature not in names:
            raise ValueError(f"feature={feature!r} is no column of X, which has {names!r}.")
        feature = names.index(feature)
    column = np.asarray(X)[:, feature].astype(np.float64)
    return column, names[feature] if names else f"feature {feature}"
