"""Proper scores of predictive distributions, as scikit-learn scorers.

Each ``*_score`` is called as ``score(estimator, X, y)`` and serves as ``scoring`` in
``cross_validate``; the first three, of which greater is better, in ``GridSearchCV`` too. The
estimator is a :class:`~skgvae.GaussianVAERegressor`, or any regressor whose ``predict`` accepts
``return_std`` (GaussianProcessRegressor, BayesianRidge, ...), whose prediction is then taken
as a Gaussian; or a Pipeline or a search that ends in one. With several targets, log densities
are joint; other scores are plain averages over targets, in which the largest unit weighs most.
"""

from functools import partial
from inspect import signature

import numpy as np
import torch
from sklearn.utils import _safe_indexing, check_array, check_consistent_length, gen_batches

from ._last_step import last_step
from ._regressor import GaussianVAERegressor
from .mixture import mixture_cdf, mixture_crps, mixture_log_prob, mixture_quantile

__all__ = [
    "calibration_summary",
    "coverage_score",
    "log_likelihood_score",
    "make_coverage_scorer",
    "make_interval_scorer",
    "neg_crps_score",
    "neg_interval_score",
    "probability_integral_transform",
]

_ROWS = 256


def log_likelihood_score(estimator, X, y):
    """Return the mean log predictive density, log p(y | x).

    Parameters
    ----------
    estimator : estimator
        A fitted probabilistic regressor.
    X : array-like of shape (n_samples, n_features)
        Rows.
    y : array-like of shape (n_samples,) or (n_samples, n_targets)
        Targets.

    Returns
    -------
    float
        Nats a row; the negative of it is the negative log-likelihood.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import BayesianRidge
    >>> from sklearn.model_selection import cross_val_score
    >>> from skgvae.metrics import log_likelihood_score
    >>> X, y = load_diabetes(return_X_y=True)
    >>> scores = cross_val_score(BayesianRidge(), X, y, scoring=log_likelihood_score)
    >>> bool((scores > -5.6).all())
    True
    """
    last, X = last_step(estimator, X)
    if isinstance(last, GaussianVAERegressor):
        return float(last.score_samples(X, y).mean())
    return float(_by_rows(mixture_log_prob, last, X, y).sum(1).mean())


def neg_crps_score(estimator, X, y):
    r"""Return minus the mean continuous ranked probability score.

    .. math:: CRPS(F, y) = \int (F(t) - 1\{t \ge y\})^2 dt

    in closed form for mixtures of Gaussians. For a point prediction it would be the absolute
    error (Gneiting & Raftery, "Strictly Proper Scoring Rules, Prediction, and Estimation",
    2007, doi:10.1198/016214506000001437).

    Parameters
    ----------
    estimator : estimator
        A fitted probabilistic regressor.
    X : array-like of shape (n_samples, n_features)
        Rows.
    y : array-like of shape (n_samples,) or (n_samples, n_targets)
        Targets.

    Returns
    -------
    float
        In the units of y, at most zero.
    """
    return -float(_by_rows(mixture_crps, *last_step(estimator, X), y).mean())


def neg_interval_score(estimator, X, y, coverage=0.9):
    r"""Return minus the mean interval score of the central prediction interval [l, u].

    .. math:: (u - l) + \tfrac2\alpha (l - y)_+ + \tfrac2\alpha (y - u)_+, \quad
        \alpha = 1 - \text{coverage}

    Narrow intervals are rewarded, misses are paid for by their distance (Gneiting & Raftery,
    2007, section 6.2).

    Parameters
    ----------
    estimator : estimator
        A fitted probabilistic regressor.
    X : array-like of shape (n_samples, n_features)
        Rows.
    y : array-like of shape (n_samples,) or (n_samples, n_targets)
        Targets.
    coverage : float, default=0.9
        Nominal probability of the interval, in (0, 1).

    Returns
    -------
    float
        In the units of y, at most zero.
    """
    low, high, y = _intervals(estimator, X, y, coverage)
    miss = np.maximum(low - y, 0) + np.maximum(y - high, 0)
    return -float(np.mean(high - low + 2 / (1 - coverage) * miss))


def coverage_score(estimator, X, y, coverage=0.9):
    """Return the share of targets inside their central prediction intervals.

    It should be near ``coverage``: more is not better. Not a proper score by itself.

    Parameters
    ----------
    estimator : estimator
        A fitted probabilistic regressor.
    X : array-like of shape (n_samples, n_features)
        Rows.
    y : array-like of shape (n_samples,) or (n_samples, n_targets)
        Targets.
    coverage : float, default=0.9
        Nominal probability of the interval, in (0, 1).

    Returns
    -------
    float
        In [0, 1].
    """
    low, high, y = _intervals(estimator, X, y, coverage)
    return float(np.mean((low <= y) & (y <= high)))


def make_interval_scorer(coverage):
    """Return :func:`neg_interval_score` for another coverage, as a scorer.

    Parameters
    ----------
    coverage : float
        Nominal probability of the interval, in (0, 1).

    Returns
    -------
    callable
        ``scorer(estimator, X, y)``.
    """
    return partial(neg_interval_score, coverage=_check_coverage(coverage))


def make_coverage_scorer(coverage):
    """Return :func:`coverage_score` for another coverage.

    Parameters
    ----------
    coverage : float
        Nominal probability of the interval, in (0, 1).

    Returns
    -------
    callable
        ``scorer(estimator, X, y)``.
    """
    return partial(coverage_score, coverage=_check_coverage(coverage))


def probability_integral_transform(estimator, X, y):
    """Return F(y | x) for each target: uniform on [0, 1] where the model is calibrated.

    Parameters
    ----------
    estimator : estimator
        A fitted probabilistic regressor.
    X : array-like of shape (n_samples, n_features)
        Rows.
    y : array-like of shape (n_samples,) or (n_samples, n_targets)
        Targets.

    Returns
    -------
    ndarray like y
        Values of the predictive distribution function.
    """
    pit = _by_rows(mixture_cdf, *last_step(estimator, X), y)
    return pit[:, 0] if np.ndim(y) == 1 else pit


def calibration_summary(estimator, X, y):
    """Return how calibrated the predictive distributions are.

    Parameters
    ----------
    estimator : estimator
        A fitted probabilistic regressor.
    X : array-like of shape (n_samples, n_features)
        Rows.
    y : array-like of shape (n_samples,) or (n_samples, n_targets)
        Targets.

    Returns
    -------
    dict
        ``pit_mean`` (½ if unbiased), ``pit_variance`` (1/12; more: intervals too narrow,
        less: too wide), ``pit_distance`` (largest distance of the transform's distribution
        function from the uniform one), ``coverage_50``, ``coverage_90``.
    """
    pit = np.ravel(probability_integral_transform(estimator, X, y))
    n = len(pit)
    ordered = np.sort(pit)
    steps = np.arange(n + 1) / n
    distance = max(np.max(steps[1:] - ordered), np.max(ordered - steps[:-1]))
    return {
        "pit_mean": float(pit.mean()),
        "pit_variance": float(pit.var()),
        "pit_distance": float(distance),
        "coverage_50": float(np.mean(np.abs(pit - 0.5) <= 0.25)),
        "coverage_90": float(np.mean(np.abs(pit - 0.5) <= 0.45)),
    }


def _intervals(estimator, X, y, coverage):
    _check_coverage(coverage)

    def bounds(y, loc, scale):
        low, high = 0.5 - coverage / 2, 0.5 + coverage / 2
        return torch.stack([mixture_quantile(p, loc, scale) for p in (low, high)], -1)

    found = _by_rows(bounds, *last_step(estimator, X), y)
    return found[..., 0], found[..., 1], _as_columns(y)


def _check_coverage(coverage):
    if not 0 < coverage < 1:
        raise ValueError(f"coverage must lie in (0, 1), got {coverage!r}.")
    return coverage


def _by_rows(function, estimator, X, y):
    """Return ``function(y, loc, scale)`` of the predictive components, by chunks of rows."""
    y = _as_columns(y)
    X = X if hasattr(X, "shape") else np.asarray(X)
    check_consistent_length(X, y)
    parts = []
    for rows in gen_batches(len(y), _ROWS):
        part = torch.from_numpy(y[rows])
        loc, scale = _components(estimator, _safe_indexing(X, rows))
        if loc.shape[1:] != part.shape:
            raise ValueError(
                f"y has {part.shape[1]} targets, but the estimator predicts {loc.shape[2]}."
            )
        parts.append(function(part, loc, scale).numpy())
    return np.concatenate(parts)


def _components(estimator, X):
    if isinstance(estimator, GaussianVAERegressor):
        loc, scale = estimator._predict_components(X)
        return torch.from_numpy(loc), torch.from_numpy(scale)
    if "return_std" not in signature(estimator.predict).parameters:
        raise TypeError(
            f"{type(estimator).__name__} gives no predictive distribution: it must be a "
            "GaussianVAERegressor, or its predict must have the parameter return_std."
        )
    mean, std = estimator.predict(X, return_std=True)
    return tuple(torch.from_numpy(_as_columns(part)[None]) for part in (mean, std))


def _as_columns(y):
    y = check_array(y, dtype=np.float64, ensure_2d=False, order="C", copy=True, input_name="y")
    return y.reshape(len(y), -1)
