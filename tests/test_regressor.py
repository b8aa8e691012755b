import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_diabetes, load_linnerud
from sklearn.ensemble import BaggingRegressor
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skgvae import GaussianVAERegressor, PosteriorCollapseWarning
from skgvae.metrics import coverage_score

FAST = {
    "max_epochs": 5,
    "hidden_layer_sizes": (8,),
    "n_draws": 64,
    "n_estimators": 1,
    "random_state": 0,
}
LINEAR = {
    "hidden_layer_sizes": (),
    "noise": "homoscedastic",
    "n_estimators": 1,
    "n_draws": 64,  # components so few that all are equally wide
    "net_params": {"criterion__n_draws": 1},
    "validation_fraction": None,
}


@pytest.fixture(scope="module")
def diabetes():
    return load_diabetes(return_X_y=True)


@pytest.fixture(scope="module")
def fitted(diabetes):
    return GaussianVAERegressor(**FAST).fit(*diabetes)


@pytest.fixture(scope="module")
def linear_gaussian():
    """y = 2 x + noise in two units, with R² = 0.8."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8000, 1))
    return x, 100 + 2 * x[:, 0] + rng.standard_normal(8000)


@pytest.fixture(scope="module")
def two_targets():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((3000, 2))
    shared = rng.standard_normal(3000)
    noise = 0.3 * rng.standard_normal((3000, 2))
    return X, X + shared[:, None] * [1, -1] + noise + [0, 10]


# Oracles


@pytest.mark.parametrize("kl_weight", [0.1, 0.5])
def test_closed_form_of_the_linear_model(kl_weight, linear_gaussian):
    # For a standardised linear-Gaussian pair with r = 1 - R² and weight w < R²:
    # decoder variance r / (1 - w) = e, slope R (1 - w e / R²), posterior variance w e / R²,
    # predictive variance e (1 + w (1 - w e / R²)).
    x, y = linear_gaussian
    r2 = LinearRegression().fit(x, y).score(x, y)
    e = (1 - r2) / (1 - kl_weight)
    shrink = 1 - kl_weight * e / r2
    model = GaussianVAERegressor(1, kl_weight=kl_weight, max_epochs=200, random_state=0, **LINEAR)
    model.fit(x, y)
    assert model.noise_variance_[0] / y.var() == pytest.approx(e, rel=0.03)
    slope = np.diff(model.predict(np.array([[0.0], [1.0]])))[0] / y.std() * x.std()
    assert slope == pytest.approx(np.sqrt(r2) * shrink, rel=0.03)
    _, std = model.encode(x[:1], return_std=True)
    assert std[0, 0] ** 2 == pytest.approx(kl_weight * e / r2, rel=0.06)
    noise, latent = model.predict_variance(x[:1])
    assert (noise + latent)[0] / y.var() == pytest.approx(e * (1 + kl_weight * shrink), rel=0.03)


def test_collapse_where_the_weight_passes_r2(linear_gaussian):
    x, y = linear_gaussian
    model = GaussianVAERegressor(1, kl_weight=0.9, max_epochs=200, random_state=0, **LINEAR)
    with pytest.warns(PosteriorCollapseWarning, match="Lower kl_weight"):
        model.fit(x, y)
    assert np.ptp(model.predict(x)) < 0.3 * y.std()
    assert model.noise_variance_[0] == pytest.approx(y.var(), rel=0.1)


def test_more_draws_allow_more_weight():
    # At a weight above R² one draw ignores x, eight draws, up to eight times R², do not.
    rng = np.random.default_rng(0)
    x, r2 = rng.standard_normal((2000, 1)), 0.2
    y = np.sqrt(r2) * x[:, 0] + np.sqrt(1 - r2) * rng.standard_normal(2000)
    model = GaussianVAERegressor(1, kl_weight=0.3, max_epochs=100, random_state=0, **LINEAR)
    with pytest.warns(PosteriorCollapseWarning):
        model.fit(x, y)
    assert np.ptp(model.predict(x)) < 0.05
    model.set_params(net_params={"criterion__n_draws": 8}).fit(x, y)
    assert np.polyfit(x[:, 0], model.predict(x), 1)[0] > 0.4 * np.sqrt(r2)


@pytest.mark.parametrize(
    "r2", [*(pytest.param(r2, marks=pytest.mark.slow) for r2 in (0.1, 0.5)), 0.8]
)
def test_honest_density_and_intervals_on_linear_data(r2, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((7000, 1))
    slope, noise = np.sqrt(r2), np.sqrt(1 - r2)
    y = 100 + slope * x[:, 0] + noise * rng.standard_normal(7000)
    model = GaussianVAERegressor(n_estimators=2, max_epochs=60, random_state=seed).fit(
        x[:4000], y[:4000]
    )
    x, y = x[4000:], y[4000:]
    truth = stats.norm.logpdf(y, 100 + slope * x[:, 0], noise).mean()
    assert model.score_samples(x, y).mean() == pytest.approx(truth, abs=0.02)
    found = np.polyfit(x[:, 0], model.predict(x), 1)[0]
    # The best epoch suits the rows that judge, whose own slope is off by 0.025 √(1 - R²) at one
    # standard error.
    assert found == pytest.approx(slope, abs=0.1)
    for coverage in (0.5, 0.9):
        low, high = model.predict_interval(x, coverage).T
        assert np.mean((low <= y) & (y <= high)) == pytest.approx(coverage, abs=0.025)


def test_the_mean_is_protected_from_the_noise():
    # Mixed scales of noise: joint maximum likelihood from the first step leaves a poor mean.
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (1500, 2))
    mean = 3 * np.sin(4 * X[:, 0]) * X[:, 1]
    std = np.where(X[:, 0] > 0, 0.02, 0.3)
    y = mean + std * rng.standard_normal(1500)
    model = GaussianVAERegressor(n_estimators=2, max_epochs=120, random_state=0)
    model.fit(X[:1000], y[:1000])
    error = np.sqrt(np.mean((model.predict(X[1000:]) - mean[1000:]) ** 2))
    assert error < 0.15
    _, found = model.predict(X[1000:], return_std=True)
    assert np.median(found[X[1000:, 0] > 0]) < 0.5 * np.median(found[X[1000:, 0] < 0])


def test_two_modes_are_found():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (3000, 1))
    branch = rng.choice([-1, 1], 3000)
    y = branch * (1 + 0.3 * x[:, 0]) + 0.05 * rng.standard_normal(3000)
    params = {"kl_weight": 0.1, "n_estimators": 1, "max_epochs": 120}
    params["net_params"] = {"criterion__n_draws": 16}
    model = GaussianVAERegressor(**params, random_state=0).fit(x, y)
    at = np.zeros((1, 1))
    between, at_mode = (model.score_samples(at, [v])[0] for v in (0.0, 1.0))
    assert at_mode > between + 2
    assert model.predict(at)[0] == pytest.approx(0, abs=0.25)
    assert model.predict_quantiles(at, [0.2, 0.8])[0] == pytest.approx([-1, 1], abs=0.2)


@pytest.mark.slow
def test_targets_may_be_correlated_given_x(two_targets):
    X, Y = two_targets
    model = GaussianVAERegressor(n_estimators=2, max_epochs=100, random_state=0).fit(X, Y)
    mean, covariance = model.predict(X[:200], return_cov=True)
    assert mean.shape == (200, 2)
    assert covariance.shape == (200, 2, 2)
    truth = np.array([[1.09, -1.0], [-1.0, 1.09]])
    correlation = covariance[:, 0, 1] / np.sqrt(covariance[:, 0, 0] * covariance[:, 1, 1])
    assert correlation.mean() == pytest.approx(-1 / 1.09, abs=0.25)
    residual = Y - X - [0, 10]
    joint, independent = (
        stats.multivariate_normal([0, 0], c).logpdf(residual).mean()
        for c in (truth, np.diag(np.diag(truth)))
    )
    assert independent + 0.4 < model.score_samples(X, Y).mean() < joint


def test_one_distribution_behind_every_answer(two_targets):
    X, Y = two_targets
    model = GaussianVAERegressor(**FAST).set_params(n_draws=1024).fit(X, Y)
    X = X[:4]
    mean, std = model.predict(X, return_std=True)
    _, covariance = model.predict(X, return_cov=True)
    noise, latent = model.predict_variance(X)
    np.testing.assert_allclose(std**2, noise + latent)
    np.testing.assert_allclose(np.diagonal(covariance, axis1=1, axis2=2), std**2)
    draws = model.sample(X, 40_000, random_state=0)
    assert draws.shape == (40_000, 4, 2)
    np.testing.assert_allclose(draws.mean(0), mean, atol=0.03)
    np.testing.assert_allclose(draws.std(0), std, rtol=0.02)
    quantiles = model.predict_quantiles(X, [0.1, 0.5, 0.9])
    assert quantiles.shape == (4, 2, 3)
    found = np.moveaxis(np.quantile(draws, [0.1, 0.5, 0.9], axis=0), 0, -1)
    np.testing.assert_allclose(quantiles, found, atol=0.05)
    np.testing.assert_allclose(
        model.predict_interval(X, 0.8), model.predict_quantiles(X, [0.1, 0.9])
    )
    np.testing.assert_array_equal(
        model.predict_interval(X, np.array(0.8)), model.predict_interval(X, 0.8)
    )
    np.testing.assert_array_equal(model.predict_quantiles(X, 0.5), quantiles[..., 1])
    loc, scale = model._predict_components(X)
    t, noise = (Y[:4] - loc) / scale, stats.multivariate_normal(cov=model.noise_correlation_)
    log_prob = noise.logpdf(t) - np.log(scale).sum(-1)
    expected = np.log(np.exp(log_prob).mean(0))
    np.testing.assert_allclose(model.score_samples(X, Y[:4]), expected, rtol=1e-9)
    np.testing.assert_allclose(loc.mean(0), mean)


# Invariances


def test_answers_do_not_depend_on_other_rows(fitted, diabetes):
    X, y = diabetes
    rows = np.array([5, 3, 200])
    for answer in (
        lambda rows: fitted.predict(X[rows]),
        lambda rows: fitted.predict_interval(X[rows]),
        lambda rows: fitted.score_samples(X[rows], y[rows]),
    ):
        np.testing.assert_allclose(answer(np.arange(len(X)))[rows], answer(rows), rtol=1e-9)


@pytest.mark.slow
def test_order_of_the_targets_does_not_matter(two_targets):
    # Up to the noise of training: the initial weights know the columns by their place.
    X, Y = two_targets
    model = GaussianVAERegressor(max_epochs=40, random_state=0)
    a, b = (clone(model).fit(X[:2000], y[:2000]) for y in (Y, Y[:, ::-1]))
    X, Y = X[2000:], Y[2000:]
    difference = a.score_samples(X, Y) - b.score_samples(X, Y[:, ::-1])
    assert difference.mean() == pytest.approx(0, abs=0.05)
    difference = a.predict(X) - b.predict(X)[:, ::-1]
    assert np.sqrt(np.mean(difference**2)) < 0.2  # of a standard deviation of 1.4


def test_extreme_inputs_are_moved_to_the_edge_of_what_was_seen(linear_gaussian):
    x, y = linear_gaussian
    model = GaussianVAERegressor(max_epochs=20, random_state=0).fit(x, y)
    low, high = x.min(), x.max()
    edge = [[low - (high - low)], [high + (high - low)]]
    np.testing.assert_allclose(model.predict([[-1e30], [1e30]]), model.predict(edge))
    inside = model.predict([[high + 0.4], [high + 0.5]])  # beyond the range, not yet moved
    assert inside[1] - inside[0] == pytest.approx(0.2, abs=0.1)
    model.partial_fit([[1e3], [0.0]], [2100.0, 100.0])  # what was seen grows
    assert model.predict([[1e4]]) > model.predict([[1e3]])


def test_units_of_the_target(diabetes):
    X, y = diabetes
    y = y + np.random.default_rng(0).uniform(size=len(y))  # no integers, which are rounded
    a = GaussianVAERegressor(**FAST).fit(X, y)
    b = GaussianVAERegressor(**FAST).fit(X, 3.7 * y + 1e5)
    np.testing.assert_allclose(b.predict(X), 3.7 * a.predict(X) + 1e5, rtol=1e-6)
    np.testing.assert_allclose(b.predict_interval(X), 3.7 * a.predict_interval(X) + 1e5, rtol=1e-6)
    np.testing.assert_allclose(
        b.score_samples(X, 3.7 * y + 1e5), a.score_samples(X, y) - np.log(3.7), rtol=1e-4
    )
    np.testing.assert_allclose(b.noise_variance_, 3.7**2 * a.noise_variance_, rtol=1e-4)


@pytest.mark.parametrize("unit", [1e-3, 1e3, 1e6])
def test_predictions_scale_with_the_unit_of_the_target(unit, fitted, diabetes):
    X, y = diabetes
    other = GaussianVAERegressor(**FAST).fit(X, unit * y)
    for a, b in zip(
        other.predict(X, return_std=True), fitted.predict(X, return_std=True), strict=True
    ):
        np.testing.assert_allclose(a / unit, b, rtol=1e-4)
    log_prob = other.score_samples(X, unit * y) + np.log(unit)
    np.testing.assert_allclose(log_prob, fitted.score_samples(X, y), rtol=1e-4)


@pytest.mark.parametrize("n_targets", [None, 1, 3])
def test_targets_keep_their_shape(n_targets):
    X, Y = load_linnerud(return_X_y=True)
    y = Y[:, 0] if n_targets is None else Y[:, :n_targets]
    model = GaussianVAERegressor(**FAST).fit(X, y)
    shape = y.shape
    assert model.predict(X).shape == shape
    assert [a.shape for a in model.predict(X, return_std=True)] == [shape, shape]
    assert [a.shape for a in model.predict_variance(X)] == [shape, shape]
    assert model.predict_interval(X).shape == (*shape, 2)
    assert model.sample(X, 7).shape == (7, *shape)
    assert model.score_samples(X, y).shape == (20,)
    assert model.decode(model.transform(X)).shape == shape
    assert model.noise_variance_.shape == (n_targets or 1,)
    assert model.transform(X).shape == (20, model.n_components_) == (20, 8)


def test_answers_have_the_precision_of_the_target(diabetes):
    # Seconds since 1970: float32 would know them to two minutes.
    X, y = diabetes
    X, y = X.astype(np.float32), y + 1.7e9
    model = GaussianVAERegressor(**FAST).fit(X, y)
    answers = (
        *model.predict(X, return_std=True),
        *model.predict(X, return_cov=True),
        model.predict_interval(X),
        model.sample(X),
        model.decode(model.transform(X)),
    )
    assert {answer.dtype for answer in answers} == {np.dtype(np.float64)}
    exact = model.predict_interval(X.astype(np.float64))
    np.testing.assert_allclose(model.predict_interval(X) - 1.7e9, exact - 1.7e9, atol=0.1)
    assert coverage_score(model, X, y) == pytest.approx(
        np.mean((y >= answers[4][:, 0]) & (y <= answers[4][:, 1])), abs=0.01
    )
    low, high = model.predict_quantiles(X[0:1], [1e-8, 1 - 1e-8])[0]
    assert 0 < high - low < 1e4
    assert model.transform(X).dtype == np.float32
    tiny = GaussianVAERegressor(**FAST).fit(X, diabetes[1] * 1e-30)
    assert (tiny.predict(X, return_std=True)[1] > 0).all()


@pytest.mark.slow
def test_a_precise_target_beside_noise():
    # The noise of other targets must not slow down the learning of a precise one.
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (1500, 2))
    f = np.sin(3 * X[:, 0]) * X[:, 1]
    Y = np.column_stack([f, rng.standard_normal((1500, 5))])
    alone, beside = (
        GaussianVAERegressor(max_epochs=50, random_state=0).fit(X[:1000], y[:1000]) for y in (f, Y)
    )
    errors = [
        np.sqrt(np.mean((predicted - f[1000:]) ** 2))
        for predicted in (alone.predict(X[1000:]), beside.predict(X[1000:])[:, 0])
    ]
    assert errors[0] < 0.03
    assert errors[1] < 0.03


def test_other_precisions(diabetes):
    X, y = diabetes
    model = GaussianVAERegressor(**FAST).fit(X.astype(np.float32), y)
    for rows in (X.astype(np.float32), X.astype(np.float32).astype(np.float64)):
        np.testing.assert_allclose(
            model.score_samples(rows, y), model.score_samples(X, y), atol=1e-3
        )


def test_rounded_targets_have_a_floor():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((500, 3))
    y = np.clip(np.round(5.5 + X[:, 0] + 0.7 * rng.standard_normal(500)), 3, 8)
    model = GaussianVAERegressor(**FAST).fit(X, y)
    assert model.min_noise_[0] == pytest.approx(1 / np.sqrt(12) / y.std())
    _, std = model.predict(X, return_std=True)
    assert std.min() >= 1 / np.sqrt(12) * (1 - 1e-6)


@pytest.mark.filterwarnings("ignore::skgvae.PosteriorCollapseWarning")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("value", [0.0, 5000.0, 2.0**24 - 1, -1e-12])
def test_constant_target_of_any_size(value, dtype):
    X = np.random.default_rng(0).standard_normal((30, 2)).astype(dtype)
    model = GaussianVAERegressor(**FAST).fit(X, np.full(30, value, dtype))
    mean, std = model.predict(X, return_std=True)
    np.testing.assert_allclose(mean, value, atol=0.5)  # the scale of a constant is one
    assert np.isfinite(std).all()
    assert std.max() < 2


def test_constant_target():
    X = np.random.default_rng(0).standard_normal((60, 2))
    model = GaussianVAERegressor(kl_weight=1.0, n_estimators=1, max_epochs=60, random_state=0)
    with pytest.warns(PosteriorCollapseWarning):
        model.fit(X, np.full(60, 3.0))
    np.testing.assert_allclose(model.predict(X), 3.0, atol=0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PosteriorCollapseWarning)  # there is nothing to find
        model = GaussianVAERegressor(max_epochs=60, random_state=0).fit(X, np.full(60, 3.0))
    mean, std = model.predict(X, return_std=True)
    np.testing.assert_allclose(mean, 3.0, atol=0.01)
    np.testing.assert_allclose(std, 0.01, atol=0.005)


# scikit-learn's tools


def test_weights_move_the_prediction():
    X, y = np.zeros((300, 1)), np.r_[np.zeros(150), np.ones(150)]
    X[:, 0] = np.random.default_rng(0).standard_normal(300)
    weight = np.r_[np.full(150, 9.0), np.ones(150)]
    model = GaussianVAERegressor(max_epochs=20, random_state=0)
    assert model.fit(X, y, sample_weight=weight).predict(X).mean() == pytest.approx(0.1, abs=0.07)


def test_weights_are_given_by_name(diabetes):
    for method in ("fit", "partial_fit"):
        with pytest.raises(TypeError, match="positional arguments"):
            getattr(GaussianVAERegressor(**FAST), method)(*diabetes, np.ones(442))


def test_partial_fit_and_state(diabetes):
    X, y = diabetes
    model = GaussianVAERegressor(random_state=0)
    for _ in range(12):
        model.partial_fit(X, y)
    assert model.score(X, y) > 0.3
    loaded = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(loaded.predict_interval(X), model.predict_interval(X))
    assert loaded.partial_fit(X, y).score(X, y) > 0.3


def test_pipelines_searches_and_wrappers(diabetes):
    X, y = diabetes
    frame = pd.DataFrame(X, columns=[f"x{i}" for i in range(10)])
    base = GaussianVAERegressor(**{**FAST, "max_epochs": 15})
    pipeline = make_pipeline(StandardScaler(), base).fit(frame, y)
    mean, std = pipeline.predict(frame, return_std=True)
    assert mean.shape == std.shape == y.shape
    grid = {
        "gaussianvaeregressor__n_components": [2, 8],
        "gaussianvaeregressor__kl_weight": [0.01],
    }
    search = GridSearchCV(pipeline, grid, cv=2, n_jobs=2, error_score="raise").fit(frame, y)
    assert search.best_score_ > 0.2
    wrapped = TransformedTargetRegressor(clone(base), func=np.log, inverse_func=np.exp)
    assert wrapped.fit(X, y).score(X, y) > 0.2
    bagged = BaggingRegressor(clone(base), n_estimators=2, random_state=0).fit(X, y)
    assert bagged.score(X, y) > 0.2
    assert np.corrcoef(cross_val_predict(base, X, y, cv=2), y)[0, 1] > 0.4
    features = make_pipeline(clone(base), Ridge())
    assert features.fit(X, y).score(X, y) > 0.2
    names = base.fit(frame, y).set_output(transform="pandas").transform(frame).columns
    assert list(names[:2]) == ["gaussianvaeregressor0", "gaussianvaeregressor1"]


# Errors


def test_errors(fitted, diabetes):
    X, y = diabetes
    with pytest.raises(RuntimeError, match="At most one of return_std and return_cov"):
        fitted.predict(X, return_std=True, return_cov=True)
    with pytest.raises(ValueError, match=r"quantiles must lie in \(0, 1\), got 0.0"):
        fitted.predict_quantiles(X, 0)
    for wrong in ([], [[0.5]]):
        with pytest.raises(ValueError, match="quantiles must be a number or a list"):
            fitted.predict_quantiles(X, wrong)
    for wrong in (90, [0.5, 0.9], 0, np.nan, 1 - 1e-16, "0.9", None):
        with pytest.raises(ValueError, match=r"coverage must be a number in \(0, 0.9999.*\], got"):
            fitted.predict_interval(X, wrong)
    with pytest.raises(ValueError, match="n_samples == 0"):
        fitted.sample(X, 0)
    with pytest.raises(ValueError, match="y has 2 targets, but the model was fitted to 1"):
        fitted.score_samples(X, np.column_stack([y, y]))
    for method in (fitted.score_samples, clone(fitted).fit, clone(fitted).partial_fit):
        with pytest.raises(TypeError, match="Sparse data was passed for y, but dense data"):
            method(X, sparse.csr_array(y[:, None]))
    with pytest.raises(ValueError, match="contains NaN"):
        GaussianVAERegressor(**FAST).fit(X, np.where(y > 100, np.nan, y))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        GaussianVAERegressor(**FAST).fit(X, y[:-1])
