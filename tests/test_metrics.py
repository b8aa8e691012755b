import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import load_diabetes
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.linear_model import BayesianRidge
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skgvae import GaussianVAERegressor
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


class Normal:
    """A regressor that predicts N(x, 2²)."""

    def predict(self, X, return_std=False):
        return X[:, 0], np.full(len(X), 2.0)


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
    rng = np.random.default_rng(0)
    X, model = rng.standard_normal((5000, 1)), Normal()
    truth, noisier, shifted = (
        score(model, X, X[:, 0] + mean + std * rng.standard_normal(5000))
        for mean, std in ((0, 2), (0, 4), (3, 2))
    )
    assert truth > noisier
    assert truth > shifted


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
        GaussianProcessRegressor(RBF() + WhiteKernel(), normalize_y=True, optimizer=None),
    ],
    ids=["ours", "ours in a pipeline", "ridge", "ridge in a pipeline", "gaussian process"],
)
def test_any_probabilistic_regressor_can_be_scored(model, data):
    X, y = data
    scoring = {score.__name__: score for score in SCORES}
    result = cross_validate(model, X, y, cv=2, scoring=scoring, error_score="raise")
    assert np.all(result["test_log_likelihood_score"] > -7)
    assert np.all(result["test_neg_crps_score"] > -60)
    assert np.all(result["test_neg_crps_score"] > result["test_neg_interval_score"])
    assert np.all((result["test_coverage_score"] > 0.7) & (result["test_coverage_score"] <= 1))


def test_scorers_serve_a_grid_search(data):
    X, y = data
    for scoring in (neg_crps_score, make_interval_scorer(0.5), make_coverage_scorer(0.5)):
        search = GridSearchCV(
            GaussianVAERegressor(**FAST),
            {"kl_weight": [0.01, 1.0]},
            scoring=scoring,
            cv=2,
            n_jobs=2,
        ).fit(X, y)
        assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    with pytest.raises(ValueError, match="coverage must lie"):
        make_interval_scorer(2)(search.best_estimator_, X, y)


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
