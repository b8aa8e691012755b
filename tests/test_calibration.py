"""Are predictions as wide as rows that no model has seen say?"""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import make_friedman1
from sklearn.metrics import log_loss

from skgvae import GaussianVAEClassifier, GaussianVAERegressor
from skgvae._calibration import HeldOut, fit_noise, log_inverse_temperature
from skgvae._rows import RowDataset
from skgvae.likelihood import class_log_prob, latent_draws
from skgvae.metrics import coverage_score
from skgvae.nn import (
    ClassifierHead,
    GaussianMLP,
    GaussianVAEClassifierModule,
    GaussianVAEModule,
)
from skgvae.nn.noise import StudentNoise
from skgvae.objectives import elbo


def held_out(y, scale=1.0, loc=0.0, weight=None):
    """Return predictions N(loc, scale²) of rows, the same in two draws."""
    y = torch.as_tensor(y).reshape(len(y), -1)
    shape = 2, *y.shape
    weight = torch.ones(len(y), dtype=torch.float64) if weight is None else torch.as_tensor(weight)
    loc = torch.full(shape, loc, dtype=torch.float64)
    log_scale = torch.as_tensor(scale, dtype=torch.float64).log().expand(shape)
    return HeldOut(loc, log_scale, y, weight)


def spread_of(*parts):
    log_spread, wide_share, _ = fit_noise(parts)
    return log_spread.exp().numpy(), wide_share


@pytest.mark.parametrize(("n", "std"), [(30, 0.5), (30, 1.0), (500, 0.5), (500, 1.0), (500, 3.0)])
def test_spread_of_normal_errors_has_a_closed_form(n, std):
    # Quantiles, of which no share of wide components would be better.
    y = std * stats.norm.ppf((np.arange(n) + 0.5) / n)
    # The derivative of sum log N(y; 0, f²) - 50 (log f + 1 / (2 f²)) is zero at
    expected = np.sqrt((np.square(y).sum() + 50) / (n + 50))
    found, wide_share = spread_of(held_out(y))
    assert found == pytest.approx(expected, rel=0.03)
    assert wide_share < 0.03
    if n == 500 and std == 1:
        assert found == pytest.approx(1, abs=0.02)


def test_few_rows_move_little():
    y = 3 * stats.norm.ppf((np.arange(30) + 0.5) / 30)
    spread, wide_share = spread_of(held_out(y))
    assert 1.2 < spread**2 * (1 + 8 * wide_share) < 7  # nine is what they say


def test_each_target_has_its_spread():
    rng = np.random.default_rng(0)
    y = rng.standard_normal((4000, 2)) * [3.0, 0.2]
    found, _ = spread_of(held_out(y, scale=[2.0, 0.1]))
    np.testing.assert_allclose(found, [1.5, 2.0], rtol=0.04)


def test_share_of_wide_components_is_that_of_wide_errors():
    rng = np.random.default_rng(0)
    y = rng.standard_normal(20_000) * np.where(rng.random(20_000) < 0.15, 3.0, 1.0)
    found, wide_share = spread_of(held_out(y))
    assert wide_share == pytest.approx(0.15, abs=0.03)
    assert found == pytest.approx(1, abs=0.03)


def test_weights_are_repeated_rows():
    y = np.random.default_rng(0).standard_normal(60) * 2
    weight = np.random.default_rng(1).integers(0, 4, 60).astype(float)
    weighted, repeated = held_out(y, weight=weight), held_out(np.repeat(y, weight.astype(int)))
    for a, b in zip(spread_of(weighted), spread_of(repeated), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3)
    for a, b in zip(spread_of(weighted, repeated), spread_of(repeated, repeated), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3)


@pytest.mark.parametrize("noise", ["heteroscedastic", "homoscedastic", "isotropic"])
def test_noise_is_scaled_exactly_and_back(noise):
    decoder = GaussianMLP(3, 2, (8,), noise=noise)
    z = 3 * torch.randn(50, 3)
    factor = torch.tensor([2.0, 0.25]) if noise != "isotropic" else torch.full((2,), 2.0)
    before = decoder(z)
    decoder.scale_noise_(factor.log())
    after = decoder(z)
    torch.testing.assert_close(after.mean, before.mean)
    torch.testing.assert_close(after.stddev, factor * before.stddev)
    decoder.scale_noise_(-factor.log())
    torch.testing.assert_close(decoder(z).stddev, before.stddev)


def friedman(n, seed, noise=1.0):
    return make_friedman1(n, n_features=8, noise=noise, random_state=seed)


@pytest.fixture(scope="module", name="long")
def trained_for_long():
    # So long that without a correction the noise is much too small.
    X, y = friedman(300, 0)
    params = {"max_epochs": 150, "hidden_layer_sizes": (64, 64), "random_state": 0}
    return GaussianVAERegressor(**params).fit(X, y)


def test_intervals_hold_as_many_fresh_rows_as_they_should(long):
    X, y = friedman(2000, 1)
    for coverage in (0.5, 0.8, 0.9, 0.95):
        assert coverage_score(long, X, y, coverage=coverage) == pytest.approx(coverage, abs=0.05)


def test_one_scale_for_all_answers(long):
    X, _ = friedman(40, 2)
    mean, std = long.predict(X, return_std=True)
    _, variance = long.predict(X, return_cov=True)
    noise, latent = long.predict_variance(X)
    np.testing.assert_allclose(std**2, variance, rtol=1e-6)
    np.testing.assert_allclose(std**2, noise + latent, rtol=1e-6)
    draws = long.sample(X, 20_000, random_state=0)
    np.testing.assert_allclose(draws.mean(0), mean, atol=0.1)
    np.testing.assert_allclose(draws.std(0), std, rtol=0.06)
    low, high = long.predict_interval(X, 0.8).T
    inside = (draws > low) & (draws < high)
    np.testing.assert_allclose(inside.mean(0), 0.8, atol=0.02)
    # The density integrates to one, and to the interval's probability.
    for i in range(5):
        t = np.linspace(mean[i] - 12 * std[i], mean[i] + 12 * std[i], 4001)
        density = np.exp(long.score_samples(np.repeat(X[i : i + 1], len(t), 0), t))
        step = t[1] - t[0]
        assert density.sum() * step == pytest.approx(1, abs=1e-3)
        assert density[(t > low[i]) & (t < high[i])].sum() * step == pytest.approx(0.8, abs=5e-3)


def test_the_module_has_the_scale_too(long):
    X_train, y_train = friedman(300, 0)
    X, _ = friedman(20, 2)
    v1 = torch.from_numpy((X - X_train.mean(0)) / X_train.std(0)).float()
    with torch.no_grad():
        module = long.module_
        scale = module.decoder(module.encoder(v1).mean).stddev[:, 0].numpy() * y_train.std()
    np.testing.assert_allclose(
        long.decode(long.transform(X), return_std=True)[1], scale, rtol=1e-4
    )


@pytest.mark.parametrize("k", [0, 1])
def test_intervals_far_outside_are_no_shorter_than_at_the_border(k):
    rng = np.random.default_rng(k)
    X = rng.uniform(-1, 1, (600, 2))
    y = np.sin(3 * X[:, 0]) + 0.5 * X[:, 1] + 0.2 * rng.standard_normal(600)
    model = GaussianVAERegressor(max_epochs=60, random_state=k).fit(X, y)
    for direction in ([1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 1.0]):
        points = np.array([1.0, 1.5, 2, 3, 10, 1e4])[:, None] * direction
        length = np.diff(model.predict_interval(points))[:, 0]
        assert (length[1:] > 0.95 * length[0]).all()
        assert length[-1] == pytest.approx(length[-2])


def test_noise_of_a_known_size_is_found():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (5000, 2))
    scale = np.exp(X[:, 1])
    y = 3 * X[:, 0] + scale * rng.standard_normal(5000)
    model = GaussianVAERegressor(max_epochs=25, random_state=0).fit(X, y)
    fresh = rng.uniform(-1, 1, (2000, 2))
    _, std = model.predict(fresh, return_std=True)
    assert np.median(std / np.exp(fresh[:, 1])) == pytest.approx(1, abs=0.05)
    y = 3 * fresh[:, 0] + np.exp(fresh[:, 1]) * rng.standard_normal(2000)
    assert coverage_score(model, fresh, y, coverage=0.9) == pytest.approx(0.9, abs=0.025)


def test_correlations_of_targets_survive():
    rng = np.random.default_rng(0)
    level = rng.uniform(-2, 2, (1500, 3))
    covariance = np.array([[1.0, 0.8], [0.8, 1.0]])
    noise = rng.multivariate_normal([0, 0], covariance, size=1500)
    Y = level[:, :2] + noise
    model = GaussianVAERegressor(max_epochs=60, random_state=0).fit(level, Y)
    X = rng.uniform(-2, 2, (200, 3))
    mean, found = model.predict(X, return_cov=True)
    std = np.sqrt(found[:, [0, 1], [0, 1]])
    correlation = found[:, 0, 1] / std.prod(1)
    assert np.median(correlation) == pytest.approx(0.8, abs=0.05)
    assert np.median(std) == pytest.approx(1, abs=0.1)
    draws = model.sample(X[:50], 4000, random_state=0)
    drawn = np.mean([np.cov(draws[:, i].T) for i in range(50)], 0)
    np.testing.assert_allclose(drawn, found[:50].mean(0), atol=0.05)
    # The joint density is that of these draws: it integrates to one, with their moments.
    side = np.linspace(-8, 8, 161)
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    density = np.exp(model.score_samples(np.repeat(X[:1], len(grid), 0), mean[0] + grid)) * 0.01
    assert density.sum() == pytest.approx(1, abs=2e-3)
    np.testing.assert_allclose((grid.T * density) @ grid, found[0], atol=0.02)


@pytest.mark.parametrize("correlation", [0.9, -0.4, 0.0])
def test_correlation_of_noise_is_found(correlation):
    rng = np.random.default_rng(0)
    covariance = np.array([[4.0, 2 * correlation], [2 * correlation, 1.0]])
    y = rng.multivariate_normal([0, 0], covariance, size=3000)
    for n in (3000, 40):  # of few rows it is shrunk
        log_spread, _, root = fit_noise([held_out(y[:n], scale=[1.0, 1.0])])
        # The likelihood of normal noise is largest, with the prior, at
        expected = (y[:n].T @ y[:n] + 50 * np.eye(2)) / (n + 50)
        std = np.sqrt(np.diag(expected))
        np.testing.assert_allclose(log_spread.exp(), std, rtol=0.05)
        np.testing.assert_allclose(root @ root.mT, expected / np.outer(std, std), atol=0.02)
        assert root[0, 1] == 0


def test_noise_that_is_not_normal_has_no_correlation():
    y = np.random.default_rng(0).multivariate_normal([0, 0], [[1, 0.9], [0.9, 1]], size=500)
    log_spread, wide_share, root = fit_noise([held_out(y)], StudentNoise)
    assert root is None
    assert 0.6 < log_spread.exp().min() < 1  # its variance is two
    assert wide_share < 0.02


def test_training_goes_on_without_the_correction():
    X, y = friedman(200, 0)
    params = {"max_epochs": 20, "n_estimators": 2, "hidden_layer_sizes": (8,), "random_state": 0}
    model = GaussianVAERegressor(**params, warm_start=True).fit(X, y)
    before = model.noise_variance_
    for _ in range(3):  # a factor that was applied again and again would grow or shrink
        model.set_params(max_epochs=1, lr=1e-12).fit(X, y)
    np.testing.assert_allclose(model.noise_variance_, before, rtol=0.05)


def test_a_second_fit_knows_nothing_of_the_first():
    X, y = friedman(200, 0)
    params = {"max_epochs": 20, "n_estimators": 2, "hidden_layer_sizes": (8,), "random_state": 0}
    again = GaussianVAERegressor(**params).fit(*friedman(150, 3, noise=5.0))
    again.set_params(validation_fraction=None).fit(X, y)
    fresh = GaussianVAERegressor(**params, validation_fraction=None).fit(X, y)
    np.testing.assert_array_equal(again.score_samples(X, y), fresh.score_samples(X, y))


def test_the_order_of_rows_does_not_matter():
    # Rows sorted by how noisy they are, more than are looked at.
    rng = np.random.default_rng(0)
    X = np.sort(rng.uniform(size=(2000, 1)), 0)
    scale = np.where(X < 0.5, 0.1, 1.0)
    Y = X + scale * rng.standard_normal((2000, 60))
    params = {"noise": "homoscedastic", "n_estimators": 1, "max_epochs": 5, "random_state": 0}
    order = rng.permutation(2000)
    found = []
    for rows in (np.arange(2000), order):
        model = GaussianVAERegressor(**params).fit(X[rows], Y[rows])
        found.append(np.median(model.predict(X, return_std=True)[1]))
    assert found[0] == pytest.approx(found[1], rel=0.1)


def test_one_noise_of_all_targets_has_one_factor():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((1000, 2))
    Y = X[:, :1] + rng.standard_normal((1000, 4)) * [0.02, 0.02, 0.02, 1.0]
    params = {"noise": "isotropic", "n_components": 1, "max_epochs": 10, "random_state": 0}
    model = GaussianVAERegressor(**params).fit(X, Y)
    Z = rng.standard_normal((500, 2))
    T = Z[:, :1] + rng.standard_normal((500, 4)) * [0.02, 0.02, 0.02, 1.0]
    mean, std = model.predict(Z, return_std=True)
    z = (T - mean) / std
    assert np.sqrt(np.mean(z**2)) == pytest.approx(1, abs=0.35)


def test_a_training_that_goes_on_keeps_the_correction():
    rng = np.random.default_rng(0)

    def rows(n):
        X = rng.standard_normal((n, 5))
        return X, np.sin(3 * X[:, 0]) + X[:, 1] * X[:, 2] + 0.5 * rng.standard_normal(n)

    X, y = rows(250)
    more = [np.concatenate(pair) for pair in zip((X, y), rows(10), strict=True)]
    model = GaussianVAERegressor(max_epochs=100, warm_start=True, random_state=0).fit(X, y)
    fresh = rows(2000)
    before = coverage_score(model, *fresh)
    # Most of the rows that other folds hold out now have been seen before.
    assert coverage_score(model.fit(*more), *fresh) > before - 0.06
    scale = model.noise_variance_
    model.set_params(lr=1e-12).partial_fit(X, y)
    np.testing.assert_allclose(model.noise_variance_, scale, rtol=0.05)


def test_modules_in_the_hands_of_others_stay_as_they_are():
    X, y = friedman(100, 0)
    model = GaussianVAERegressor(max_epochs=5, random_state=0).fit(X, y)
    module = model.module_
    before = module.decoder(torch.zeros(1, model.n_components_)).stddev
    model.fit(X, y)
    assert torch.equal(module.decoder(torch.zeros(1, model.n_components_)).stddev, before)


def own_bound(*args, mean_power, **params):
    return elbo(*args, **params)


@pytest.mark.parametrize(
    "net_params", [{"module__min_noise": 0.1}, {"criterion__bound": own_bound}]
)
def test_settings_of_the_net(net_params):
    X, y = friedman(60, 0)
    model = GaussianVAERegressor(max_epochs=2, random_state=0, net_params=net_params).fit(X, y)
    assert np.isfinite(model.score_samples(X, y)).all()


def test_epochs_are_judged_with_the_best_factor():
    X, y = friedman(300, 0)
    params = {"max_epochs": 100, "n_estimators": 2, "random_state": 0}
    plain = {"net_params": {"criterion__log_spreads": None}}
    long, short = (GaussianVAERegressor(**params, **more).fit(X, y) for more in ({}, plain))
    losses = [[h["valid_loss"] for h in model.history_] for model in (long, short)]
    n = min(map(len, losses))
    assert (np.array(losses[0][:n]) <= np.array(losses[1][:n]) + 1e-5).all()
    assert (np.array(losses[0][:n]) < np.array(losses[1][:n]) - 0.01).any()


# Classes


def test_logits_are_scaled_exactly():
    head = ClassifierHead(3, 2, n_classes=4)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    v1, v2 = torch.randn(20, 3), torch.randn(20, 2)
    before = head(v1, v2)
    head.scale_logits_(0.4)
    torch.testing.assert_close(head(v1, v2), 0.4 * before)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_temperature_of_logits_that_are_too_large_is_found(factor):
    generator = torch.Generator().manual_seed(0)
    vae = GaussianVAEModule(4, 2, out_features=2, generator=generator)
    head = ClassifierHead(4, 2, n_classes=3, generator=generator)
    torch.nn.init.normal_(head.linear.weight, generator=generator)
    joint = GaussianVAEClassifierModule(vae, head).double()
    v1 = torch.randn(6000, 4, generator=generator, dtype=torch.float64)
    draws = latent_draws(64, 4, 0)
    p = class_log_prob(joint, v1, draws).exp()
    label = torch.multinomial(p, 1, generator=generator)[:, 0]
    head.scale_logits_(factor)
    rows = RowDataset(v1, torch.zeros(6000, 2).double(), label=label)
    found = log_inverse_temperature([joint], [rows], draws)
    assert np.exp(found) == pytest.approx(1 / factor, rel=0.1)
    assert log_inverse_temperature([joint], [rows.subset(slice(0, 19))], draws) is None


def noisy_classes(n, seed):
    """Return rows of which the classes are known to the probabilities in the last array."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 6))
    p = 1 / (1 + np.exp(-1.5 * X[:, 0] - X[:, 1] * X[:, 2]))
    return X, (rng.random(n) < p).astype(int), p


@pytest.fixture(scope="module", name="sure")
def classifier_trained_for_long():
    X, y, _ = noisy_classes(400, 0)
    return GaussianVAEClassifier(max_epochs=80, random_state=0).fit(X, y)


def test_probabilities_hold(sure):
    X, y, p = noisy_classes(4000, 1)
    found = sure.predict_proba(X)[:, 1]
    for low, high in [(0, 0.2), (0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 1)]:
        own = (found >= low) & (found < high)
        assert own.sum() > 100
        assert p[own].mean() == pytest.approx(found[own].mean(), abs=0.1)
    assert log_loss(y, found) < log_loss(y, p) + 0.08
    probabilities = np.exp(sure.predict_log_proba(X))
    np.testing.assert_allclose(probabilities[:, 1], found)


def test_a_continued_training_keeps_the_temperature():
    X, y, _ = noisy_classes(400, 0)
    params = {"max_epochs": 30, "n_estimators": 2, "random_state": 0}
    model = GaussianVAEClassifier(**params, warm_start=True).fit(X, y)
    before = model.predict_proba(X)
    for _ in range(3):
        model.set_params(max_epochs=1, lr=1e-12).fit(X, y)
    np.testing.assert_allclose(model.predict_proba(X), before, atol=0.02)
