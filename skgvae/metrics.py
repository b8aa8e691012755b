"""Scores of predictive distributions, as scikit-learn scorers.

Call a score as ``score(estimator, X, y)``, or pass it as ``scoring`` to ``cross_validate``.
``GridSearchCV`` needs a score of which greater is better: the log likelihood, minus the CRPS or
minus the interval score.

The estimator is a :class:`~skgvae.GaussianVAERegressor` or any regressor whose ``predict`` has
the parameter ``return_std`` (GaussianProcessRegressor, BayesianRidge, ...). The prediction of
such a regressor is taken as a Gaussian. The regressor may also be the last step of a Pipeline or
the estimator of a search.

With several targets, log densities are joint. The other scores are averages over targets, so the
target with the largest unit weighs most.

With ``sample_weight``, scores are weighted means over rows. If metadata routing is enabled, a
search or ``cross_validate`` that is given ``sample_weight`` passes it to these scores. From
scikit-learn 1.7 on, a search does so without metadata routing, too. To fit with weights and score
without them, pass a function of your own: ``lambda model, X, y: neg_crps_score(model, X, y)``.
"""

from functools import partial

import numpy as np
import torch
from sklearn.utils import _safe_indexing, check_array, check_consistent_length, gen_batches
from sklearn.utils.metadata_routing import MetadataRequest
from sklearn.utils.validation import _check_sample_weight

from ._last_step import check_predicts_std, last_step
from ._mixture import mixture_cdf, mixture_crps, mixture_log_prob, mixture_quantile
from ._regressor import GaussianVAERegressor
from ._validation import refuse_dates
from .nn import GaussianNoise

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


def _request_weights():
    """Return what scikit-learn's metadata routing passes to a score: weights, if there are any."""
    request = MetadataRequest(owner="skgvae.metrics")
    request.score.add_request(param="sample_weight", alias=True)
    return request


def _accept_weights():
    """Answer a search with several scorers, which asks this if routing is not enabled."""
    return True


def _weighted_scorer(score):
    score.get_metadata_routing = _request_weights
    score._accept_sample_weight = _accept_weights
    return score


class _PartialScorer(partial):
    # Not attributes of a plain partial: a process of joblib would receive it without them.
    get_metadata_routing = staticmethod(_request_weights)
    _accept_sample_weight = staticmethod(_accept_weights)


@_weighted_scorer
def log_likelihood_score(estimator, X, y, *, sample_weight=None):
    """Return the mean log predictive density, log p(y | x).

    Parameters
    ----------
    estimator : estimator
        A fitted probabilistic regressor.
    X : array-like of shape (n_samples, n_features)
        Rows.
    y : array-like of shape (n_samples,) or (n_samples, n_targets)
        Targets.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the rows in the mean. None gives all rows the same weight.

    Returns
    -------
    float
        Nats a row. The negative of it is the negative log-likelihood.

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
        return _mean(last.score_samples(X, y), sample_weight)
    return _mean(_by_rows(mixture_log_prob, last, X, y).sum(1), sample_weight)


@_weighted_scorer
def neg_crps_score(estimator, X, y, *, sample_weight=None):
    r"""Return minus the mean continuous ranked probability score.

    .. math:: CRPS(F, y) = \int (F(t) - 1\{t \ge y\})^2 dt

    in closed form for mixtures of Gaussians. For a point prediction it is the absolute error
    (Gneiting & Raftery, "Strictly Proper Scoring Rules, Prediction, and Estimation", 2007,
    doi:10.1198/016214506000001437).

    Parameters
    ----------
    estimator : estimator
        A fitted probabilistic regressor.
    X : array-like of shape (n_samples, n_features)
        Rows.
    y : array-like of shape (n_samples,) or (n_samples, n_targets)
        Targets.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the rows in the mean. None gives all rows the same weight.

    Returns
    -------
    float
        In the units of y, at most zero.
    """
    return -_mean(_by_rows(mixture_crps, *last_step(estimator, X), y), sample_weight)


@_weighted_scorer
def neg_interval_score(estimator, X, y, coverage=0.9, *, sample_weight=None):
    r"""Return minus the mean interval score of the central prediction interval [l, u].

    .. math:: (u - l) + \tfrac2\alpha (l - y)_+ + \tfrac2\alpha (y - u)_+, \quad
        \alpha = 1 - \text{coverage}

    Narrow intervals score well, and a miss costs in proportion to its distance (Gneiting &
    Raftery, 2007, section 6.2).

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
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the rows in the mean. None gives all rows the same weight.

    Returns
    -------
    float
        In the units of y, at most zero.
    """
    low, high, y = _intervals(estimator, X, y, coverage)
    miss = np.maximum(low - y, 0) + np.maximum(y - high, 0)
    return -_mean(high - low + 2 / (1 - coverage) * miss, sample_weight)


@_weighted_scorer
def coverage_score(estimator, X, y, coverage=0.9, *, sample_weight=None):
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
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the rows in the share. None gives all rows the same weight.

    Returns
    -------
    float
        In [0, 1].
    """
    low, high, y = _intervals(estimator, X, y, coverage)
    return _mean((low <= y) & (y <= high), sample_weight)


def make_interval_scorer(coverage):
    """Return :func:`neg_interval_score` for another coverage, as a scorer.

    Parameters
    ----------
    coverage : float
        Nominal probability of the interval, in (0, 1).

    Returns
    -------
    callable
        ``scorer(estimator, X, y, *, sample_weight=None)``.
    """
    return _PartialScorer(neg_interval_score, coverage=_check_coverage(coverage))


def make_coverage_scorer(coverage):
    """Return :func:`coverage_score` for another coverage.

    Parameters
    ----------
    coverage : float
        Nominal probability of the interval, in (0, 1).

    Returns
    -------
    callable
        ``scorer(estimator, X, y, *, sample_weight=None)``.
    """
    return _PartialScorer(coverage_score, coverage=_check_coverage(coverage))


def probability_integral_transform(estimator, X, y):
    """Return F(y | x) for each target: uniform on [0, 1] if the model is calibrated.

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


@_weighted_scorer
def calibration_summary(estimator, X, y, *, sample_weight=None):
    """Return how calibrated the predictive distributions are.

    Parameters
    ----------
    estimator : estimator
        A fitted probabilistic regressor.
    X : array-like of shape (n_samples, n_features)
        Rows.
    y : array-like of shape (n_samples,) or (n_samples, n_targets)
        Targets.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the rows. None gives all rows the same weight.

    Returns
    -------
    dict
        ``pit_mean`` (½ if unbiased), ``pit_variance`` (1/12; larger if intervals are too
        narrow, smaller if they are too wide), ``pit_distance`` (largest distance between the
        distribution function of the transform and the uniform one), ``coverage_50``,
        ``coverage_90``.
    """
    pit = _by_rows(mixture_cdf, *last_step(estimator, X), y)
    mean = _mean(pit, sample_weight)
    return {
        "pit_mean": mean,
        "pit_variance": _mean((pit - mean) ** 2, sample_weight),
        "pit_distance": _distance_from_uniform(pit, sample_weight),
        "coverage_50": _mean(np.abs(pit - 0.5) <= 0.25, sample_weight),
        "coverage_90": _mean(np.abs(pit - 0.5) <= 0.45, sample_weight),
    }


def _mean(values, sample_weight):
    """Return the weighted mean over rows of values of shape (n_samples[, n_targets])."""
    weight = _check_weight(sample_weight, values)
    counted = weight > 0  # zero times a density of minus infinity would be NaN
    rows = values[counted].reshape(counted.sum(), -1).mean(1)
    return float(np.average(rows, weights=weight[counted]))


def _distance_from_uniform(pit, sample_weight):
    """Return the Kolmogorov-Smirnov distance of pit, of shape (n_samples, n_targets)."""
    weight = np.repeat(_check_weight(sample_weight, pit), pit.shape[1])
    order = np.argsort(pit, axis=None)
    ordered, after = pit.ravel()[order], np.cumsum(weight[order]) / weight.sum()
    before = np.append(0, after[:-1])
    return float(max(np.max(after - ordered), np.max(ordered - before)))


def _check_weight(sample_weight, values):
    weight = _check_sample_weight(sample_weight, values, ensure_non_negative=True)
    if not weight.any():  # before version 1.9, scikit-learn's check lets this pass
        raise ValueError("sample_weight is zero for all rows: at least one must be positive.")
    return weight


def _intervals(estimator, X, y, coverage):
    _check_coverage(coverage)

    def bounds(y, loc, scale, noise):
        low, high = 0.5 - coverage / 2, 0.5 + coverage / 2
        return torch.stack([mixture_quantile(p, loc, scale, noise) for p in (low, high)], -1)

    found = _by_rows(bounds, *last_step(estimator, X), y)
    return found[..., 0], found[..., 1], _as_columns(y)


def _check_coverage(coverage):
    if not 0 < coverage < 1:
        raise ValueError(f"coverage must lie in (0, 1), got {coverage!r}.")
    return coverage


def _by_rows(function, estimator, X, y):
    """Return ``function(y, loc, scale, noise)`` of the components, by chunks of rows."""
    y = _as_columns(y)
    X = X if hasattr(X, "shape") else np.asarray(X)
    check_consistent_length(X, y)
    parts = []
    for rows in gen_batches(len(y), _ROWS):
        part = torch.from_numpy(y[rows])
        loc, scale, noise = _components(estimator, _safe_indexing(X, rows))
        if loc.shape[1:] != part.shape:
            raise ValueError(
                f"y has {part.shape[1]} targets, but the estimator predicts {loc.shape[2]}."
            )
        parts.append(function(part, loc, scale, noise).numpy())
    return np.concatenate(parts)


def _components(estimator, X):
    if isinstance(estimator, GaussianVAERegressor):
        loc, scale = estimator._predict_components(X)
        return torch.from_numpy(loc), torch.from_numpy(scale), estimator._noise_family
    check_predicts_std(estimator)
    mean, std = estimator.predict(X, return_std=True)
    parts = (torch.from_numpy(_as_columns(part)[None]) for part in (mean, std))
    return *parts, GaussianNoise


def _as_columns(y):
    refuse_dates(y, "y")
    y = check_array(y, dtype=np.float64, ensure_2d=False, order="C", copy=True, input_name="y")
    return y.reshape(len(y), -1)
