import pickle

import numpy as np
import pytest
from scipy import stats
from sklearn import config_context
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_diabetes
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.linear_model import BayesianRidge, Ridge
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from skgvae import GaussianVAE, GaussianVAERegressor
from skgvae.metrics import (
    calibration_summary,
    coverage_score,
    log_likelihood_score,
    make_coverage_scorer,
    make_interval_scorer,
    neg_crps_score,
    neg_interval_score,
    probability_integral_transform,
)

FAST = {"max_epochs": 5, "hidden_layer_sizes": (8,), "n_draws": 64, "random_state": 0}
SCORES = [log_likelihood_score, neg_crps_score, neg_interval_score, coverage_score]
WEIGHTED = [*SCORES, make_interval_scorer(0.5), make_coverage_scorer(0.5)]


class Normal:
    """A regressor that predicts N(x + shift, std²)."""

    def __init__(self, shift=0, std=2.0):
        self.shift, self.std = shift, std

    def predict(self, X, return_std=False):
        return X[:, 0] + self.shift, np.full(len(X), self.std)


@pytest.fixture(scope="module")
def data():
    return load_diabetes(return_X_y=True)


def test_scores_of_one_gaussian_against_closed_forms():
    rng = np.random.default_rng(0)
    X, model = rng.standard_normal((600, 1)), Normal()
    y = X[:, 0] + 2 * rng.standard_normal(600)
    t = (y - X[:, 0]) / 2
    assert log_likelihood_score(model, X, y) == pytest.approx(
        stats.norm.logpdf(y, X[:, 0], 2).mean()
    )
    crps = 2 * (t * (2 * stats.norm.cdf(t) - 1) + 2 * stats.norm.pdf(t) - 1 / np.sqrt(np.pi))
    assert neg_crps_score(model, X, y) == pytest.approx(-crps.mean())
    half = 2 * stats.norm.ppf(0.95)
    miss = np.maximum(np.abs(y - X[:, 0]) - half, 0)
    assert neg_interval_score(model, X, y) == pytest.approx(-np.mean(2 * half + 20 * miss))
    assert coverage_score(model, X, y) == pytest.approx(np.mean(miss == 0))
    np.testing.assert_allclose(probability_integral_transform(model, X, y), stats.norm.cdf(t))


@pytest.mark.parametrize("score", SCORES[:3])
def test_scores_are_proper(score):
    # Of all forecasts the true distribution has the best score, on the same data.
    rng = np.random.default_rng(0)
    X = rng.standard_normal((5000, 1))
    y = X[:, 0] + 2 * rng.standard_normal(5000)
    truth = score(Normal(), X, y)
    for shift, std in ((0, 1), (0, 4), (1, 2), (-1, 2), (0, 1.5), (0, 2.7)):
        assert truth > score(Normal(shift, std), X, y)


def test_calibration_summary_knows_too_narrow_and_too_wide():
    rng = np.random.default_rng(0)
    X, model = rng.standard_normal((4000, 1)), Normal()
    right, narrow, wide = (
        calibration_summary(model, X, X[:, 0] + std * rng.standard_normal(4000))
        for std in (2, 4, 1)
    )
    assert right["pit_mean"] == pytest.approx(0.5, abs=0.02)
    assert right["pit_variance"] == pytest.approx(1 / 12, abs=0.005)
    assert right["coverage_90"] == pytest.approx(0.9, abs=0.02)
    assert right["pit_distance"] < 0.03
    assert narrow["pit_variance"] > 0.1 > 1 / 12 > wide["pit_variance"]
    assert narrow["coverage_50"] < 0.4 < 0.6 < wide["coverage_50"]
    expected = stats.kstest(probability_integral_transform(model, X, X[:, 0] + 1), "uniform")
    assert calibration_summary(model, X, X[:, 0] + 1)["pit_distance"] == pytest.approx(
        expected.statistic
    )


@pytest.mark.parametrize(
    "model",
    [
        GaussianVAERegressor(**FAST),
        make_pipeline(StandardScaler(), GaussianVAERegressor(**FAST)),
        BayesianRidge(),
        make_pipeline(StandardScaler(), BayesianRidge()),
        GaussianProcessRegressor(RBF(0.3) + WhiteKernel(0.5), normalize_y=True, optimizer=None),
    ],
    ids=["ours", "ours in a pipeline", "ridge", "ridge in a pipeline", "gaussian process"],
)
def test_any_probabilistic_regressor_can_be_scored(model, data):
    X, y = data
    scoring = {score.__name__: score for score in SCORES}
    result = cross_validate(model, X, y, cv=2, scoring=scoring, error_score="raise")
    # N(mean, std²) of all targets scores −5.76, −44 and −255.
    assert np.all(result["test_log_likelihood_score"] > -5.7)
    assert np.all(result["test_neg_crps_score"] > -38)
    assert np.all(result["test_neg_interval_score"] > -255)
    assert np.all((result["test_coverage_score"] > 0.8) & (result["test_coverage_score"] < 0.99))


def brute_force(y, loc, scale, correlation, coverage):
    """Scores of equal-weight mixtures (n_draws, n, q) by their distribution functions."""
    t = (y - loc) / scale
    log_prob = stats.multivariate_normal(cov=correlation).logpdf(t) - np.log(scale).sum(2)
    scores = [np.log(np.exp(log_prob).mean(0)).mean(), [], [], []]
    for i, j in np.ndindex(y.shape):
        m, s, t = loc[:, i, j], scale[:, i, j], y[i, j]
        width = 12 * s.max()
        grid = np.linspace(min(m.min(), t) - width, max(m.max(), t) + width, 40_001)
        cdf = stats.norm.cdf(grid[:, None], m, s).mean(1)
        scores[1].append(-np.trapezoid((cdf - (grid >= t)) ** 2, grid))
        low, high = np.interp([0.5 - coverage / 2, 0.5 + coverage / 2], cdf, grid)
        miss = max(low - t, 0) + max(t - high, 0)
        scores[2].append(-(high - low) - 2 / (1 - coverage) * miss)
        scores[3].append(low <= t <= high)
    return [scores[0], *(np.mean(part) for part in scores[1:])]


@pytest.mark.parametrize("n_targets", [1, 2])
@pytest.mark.parametrize("how", ["alone", "pipeline", "nested", "search"])
def test_scores_of_mixtures_by_brute_force(n_targets, how, data):
    X, y = data
    Y = np.column_stack([y, X @ np.arange(10)])[:, :n_targets]
    model = GaussianVAERegressor(**FAST).set_params(max_epochs=15, n_estimators=2)
    if how in ("pipeline", "nested"):
        model = make_pipeline(StandardScaler(with_std=False), model)
    if how == "nested":
        model = make_pipeline(StandardScaler(), model)
    if how == "search":
        model = GridSearchCV(model, {"kl_weight": [0.1]}, cv=2, scoring=neg_crps_score)
    model.fit(X, Y if n_targets > 1 else y)
    rows, last = X[:12], model
    if how in ("pipeline", "nested"):
        rows = model[:-1].transform(rows)
        last = model[-1]
    if how == "nested":
        rows, last = last[:-1].transform(rows), last[-1]
    if how == "search":
        last = model.best_estimator_
    components = *last._predict_components(rows), last.noise_correlation_
    expected = brute_force(Y[:12], *components, 0.9)
    targets = Y[:12] if n_targets > 1 else y[:12]
    found = [score(model, X[:12], targets) for score in SCORES]
    assert found == pytest.approx(expected, rel=3e-4)
    summary = calibration_summary(model, X[:12], targets)
    assert summary["coverage_90"] == pytest.approx(expected[3])
    half = brute_force(Y[:12], *components, 0.5)
    assert summary["coverage_50"] == pytest.approx(half[3])


@pytest.fixture(scope="module")
def weights(data):
    return (data[1] / 70).astype(int)  # 0 to 4, more where y is large


@pytest.mark.parametrize("score", WEIGHTED)
@pytest.mark.parametrize("n_targets", [1, 2])
def test_a_weight_counts_a_row_that_many_times(score, n_targets, data, weights):
    X, y = data
    Y = y if n_targets == 1 else np.column_stack([y, X @ np.arange(10)])
    kernel = RBF(0.3) + WhiteKernel(0.5)
    model = GaussianProcessRegressor(kernel, normalize_y=True, optimizer=None).fit(X, Y)
    found = score(model, X, Y, sample_weight=weights)
    assert found != pytest.approx(score(model, X, Y), rel=1e-3)
    repeated = np.repeat(np.arange(len(X)), weights)
    assert found == pytest.approx(score(model, X[repeated], Y[repeated]))
    assert score(model, X, Y, sample_weight=np.full(len(X), 7)) == pytest.approx(
        score(model, X, Y)
    )


def test_weights_of_our_own_model_and_of_the_summary(data, weights):
    X, y = data
    pipeline = make_pipeline(StandardScaler(), GaussianVAERegressor(**FAST)).fit(X, y)
    repeated = np.repeat(np.arange(len(X)), weights)
    for score in (log_likelihood_score, neg_crps_score, calibration_summary):
        found = score(pipeline, X, y, sample_weight=weights)
        assert found == pytest.approx(score(pipeline, X[repeated], y[repeated]))


def test_a_row_of_weight_zero_does_not_count():
    X, y = np.array([[0.0], [1.0]]), np.array([1.0, 1.0])
    for weight, expected in (([1, 0], -np.inf), ([0, 1], np.inf)):
        assert log_likelihood_score(Normal(std=0.0), X, y, sample_weight=weight) == expected


@pytest.mark.parametrize("score", [*WEIGHTED, calibration_summary])
def test_weights_that_cannot_be_used(score):
    X, y = np.arange(3.0)[:, None], np.arange(3.0)
    for weight, error in (
        ([1, -1, 1], "[Nn]egative"),
        ([1, 1], r"sample_weight.shape == \(2,\)"),
        ([1, np.nan, 1], "NaN"),
        ([0, 0, 0], "zero for all rows|at least one non-zero"),  # or scikit-learn's words
    ):
        with pytest.raises(ValueError, match=error):
            score(Normal(), X, y, sample_weight=weight)


@pytest.mark.parametrize("score", WEIGHTED)
def test_weights_are_routed_to_scorers(score, data, weights):
    X, y = data
    with config_context(enable_metadata_routing=True):
        ridge = BayesianRidge().set_fit_request(sample_weight=True)
        found = cross_validate(
            ridge, X, y, cv=2, scoring=score, params={"sample_weight": weights}
        )["test_score"]
        search = GridSearchCV(ridge, {"tol": [1e-3]}, cv=2, scoring=score)
        search = pickle.loads(pickle.dumps(search)).fit(X, y, sample_weight=weights)
        several = GridSearchCV(ridge, {"tol": [1e-3]}, cv=2, scoring={"a": score}, refit=False)
        several.fit(X, y, sample_weight=weights)
    halves = np.split(np.arange(len(X)), 2)
    expected = []
    for train, test in (halves[::-1], halves):
        model = BayesianRidge().fit(X[train], y[train], weights[train])
        expected.append(score(model, X[test], y[test], sample_weight=weights[test]))
    np.testing.assert_allclose(found, expected)
    assert search.best_score_ == pytest.approx(np.mean(expected))
    assert several.cv_results_["mean_test_a"] == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("score", [neg_crps_score, make_coverage_scorer(0.5)])
def test_several_scorers_and_weights_without_metadata_routing(score, data, weights):
    X, y = data
    single, several = (
        GridSearchCV(
            BayesianRidge(), {"tol": [1e-3]}, cv=2, scoring=scoring, refit=False, n_jobs=2
        )
        for scoring in (score, {"score": score})
    )
    for search in (single, several):
        search.fit(X, y, sample_weight=weights)
    assert several.cv_results_["mean_test_score"] == single.cv_results_["mean_test_score"]


def test_several_targets_of_another_regressor(data):
    X, y = data
    Y = np.column_stack([y, X @ np.arange(10)])
    model = GaussianProcessRegressor(RBF() + WhiteKernel(), normalize_y=True, optimizer=None)
    mean, std = model.fit(X, Y).predict(X, return_std=True)
    expected = stats.norm.logpdf(Y, mean, std).sum(1).mean()
    assert log_likelihood_score(model, X, Y) == pytest.approx(expected)
    pit = probability_integral_transform(model, X, Y)
    np.testing.assert_allclose(pit, stats.norm.cdf(Y, mean, std), atol=1e-12)


def test_any_container_of_rows_and_targets(data):
    X, y = data
    model = BayesianRidge().fit(X, y)
    expected = [score(model, X, y) for score in SCORES]
    frame, series = load_diabetes(return_X_y=True, as_frame=True)
    pairs = [(X[::-1], y[::-1]), (X.tolist(), y.tolist()), (X, series), (X, y[:, None])]
    for rows, targets in [*pairs, (X, y.astype(int))]:
        assert [score(model, rows, targets) for score in SCORES] == pytest.approx(expected)
    named = BayesianRidge().fit(frame, y)
    assert [score(named, frame, series) for score in SCORES] == pytest.approx(expected)


def test_a_forecast_without_doubt():
    X, y = np.array([[0.0], [1.0]]), np.array([1.0, 3.0])
    model = Normal(std=0.0)
    assert neg_crps_score(model, X, y) == -1.5  # the mean absolute error
    assert log_likelihood_score(model, X, y) == -np.inf
    assert log_likelihood_score(model, X, X[:, 0]) == np.inf
    assert coverage_score(model, X, y) == 0
    assert coverage_score(model, X, X[:, 0]) == 1
    np.testing.assert_array_equal(probability_integral_transform(model, X, y), [1, 1])


@pytest.mark.parametrize("score", SCORES)
def test_what_does_not_fit_together_is_refused(score, data):
    X, y = data
    Y = np.column_stack([y, y, y])
    for model in (GaussianVAERegressor(**FAST), BayesianRidge()):
        model.fit(X, y)
        with pytest.raises(ValueError, match="y has 3 targets, but"):
            score(model, X, Y)
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            score(model, X, y[:256])
        with pytest.raises(ValueError, match="NaN"):
            score(model, X, np.where(y > 300, np.nan, y))
    with pytest.raises(ValueError, match="y has 1 targets, but"):
        score(GaussianVAERegressor(**FAST).fit(X, Y), X, y)
    with pytest.raises(TypeError, match="Ridge gives no predictive distribution"):
        score(Ridge().fit(X, y), X, y)
    wrapped = TransformedTargetRegressor(BayesianRidge()).fit(X, y)
    with pytest.raises(TypeError, match="TransformedTargetRegressor gives no predictive"):
        score(wrapped, X, y)


@pytest.mark.parametrize("score", [*SCORES, probability_integral_transform])
def test_not_fitted(score, data):
    X, y = data
    search = GridSearchCV(GaussianVAERegressor(**FAST), {"kl_weight": [1.0]}, cv=2)
    for model in (
        GaussianVAERegressor(**FAST),
        search,
        make_pipeline(search),
        make_pipeline(FunctionTransformer(), search),
        make_pipeline(StandardScaler(), BayesianRidge()),
        GridSearchCV(make_pipeline(StandardScaler(), BayesianRidge()), {}, cv=2),
    ):
        with pytest.raises(NotFittedError):
            score(model, X, y)


def test_models_that_give_no_predictive_distribution(data):
    X, y = data
    with pytest.raises(TypeError, match="GaussianVAE gives no predictive distribution"):
        neg_crps_score(GaussianVAE(**FAST).fit(X), X, y)
    search = GridSearchCV(BayesianRidge(), {"tol": [1e-3]}, cv=2, refit=False).fit(X, y)
    with pytest.raises(ValueError, match="GridSearchCV was fitted with refit=False"):
        neg_crps_score(search, X, y)


def test_a_frozen_model_keeps_its_mixture(data):
    X, y = data
    model = GaussianVAERegressor(**FAST).fit(X, y)
    for score in SCORES:
        assert score(FrozenEstimator(model), X, y) == score(model, X, y)


def test_scorers_serve_a_grid_search(data):
    X, y = data
    for scoring in (neg_crps_score, make_interval_scorer(0.5)):
        search = GridSearchCV(
            GaussianVAERegressor(n_estimators=2, **FAST),
            {"kl_weight": [0.01, 1.0]},
            scoring=scoring,
            cv=2,
            n_jobs=2,
        ).fit(X, y)
        assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    inside = make_coverage_scorer(0.5)(search, X, y)
    assert inside == pytest.approx(coverage_score(search.best_estimator_, X, y, 0.5))
    nested = cross_validate(search, X, y, cv=2, scoring=neg_crps_score, error_score="raise")
    assert np.all(nested["test_score"] > -44)
    for make in (make_interval_scorer, make_coverage_scorer):
        with pytest.raises(ValueError, match="coverage must lie"):
            make(90)


def test_several_targets(data):
    X, y = data
    Y = np.column_stack([y, X @ np.arange(10)])
    model = GaussianVAERegressor(**FAST).fit(X, Y)
    assert probability_integral_transform(model, X, Y).shape == Y.shape
    assert log_likelihood_score(model, X, Y) == pytest.approx(model.score_samples(X, Y).mean())
    assert np.isfinite(neg_crps_score(model, X, Y))
    loc, scale = model._predict_components(X[:3])
    low = [mixture_ppf(0.05, loc[:, i, 0], scale[:, i, 0]) for i in range(3)]
    np.testing.assert_allclose(model.predict_interval(X[:3])[:, 0, 0], low, rtol=1e-6)


def mixture_ppf(p, loc, scale):
    grid = np.linspace(loc.min() - 8 * scale.max(), loc.max() + 8 * scale.max(), 200_001)
    cdf = stats.norm.cdf(grid[:, None], loc, scale).mean(1)
    return np.interp(p, cdf, grid)
