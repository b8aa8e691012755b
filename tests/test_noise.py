"""Families of noise against scipy, and through the estimators."""

import numpy as np
import pytest
import scipy.stats
import torch

from skgvae import GaussianVAE, GaussianVAEClassifier, GaussianVAERegressor
from skgvae._mixture import mixture_cdf, mixture_crps, mixture_log_prob, mixture_quantile
from skgvae.metrics import coverage_score, neg_crps_score
from skgvae.nn import NOISE_MODELS, GaussianMLP, GaussianNoise, StudentNoise, pullback_metric

FAMILIES = {GaussianNoise: scipy.stats.norm, StudentNoise: scipy.stats.t(4)}
T = torch.tensor([-1e6, -40.0, -3.0, -0.1, 0.0, 1e-4, 0.5, 2.0, 30.0, 1e5], dtype=torch.float64)


def test_every_family_has_a_known_distribution():
    assert {model.family for model in NOISE_MODELS.values()} == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_densities_and_distribution_functions(family):
    known = FAMILIES[family]
    np.testing.assert_allclose(family.log_density(T), known.logpdf(T), rtol=1e-12)
    np.testing.assert_allclose(family.cdf(T), known.cdf(T), rtol=1e-9, atol=1e-15)
    assert family.variance == known.var()
    loc, log_scale = torch.tensor([0.5, 0.7], dtype=torch.float64)
    scaled = family.log_prob(T, loc, log_scale)
    np.testing.assert_allclose(scaled, known.logpdf((T - 0.5) / np.exp(0.7)) - 0.7, rtol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_ends_of_the_distribution_function(family):
    inf = torch.tensor([-torch.inf, torch.inf])
    assert family.cdf(inf).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_draws_are_quantiles_of_normal_draws(family, dtype):
    eps = torch.linspace(-5, 5, 101, dtype=torch.float64)
    found = family.from_normal(eps.to(dtype))
    expected = FAMILIES[family].isf(scipy.stats.norm.sf(eps))
    tolerance = {torch.float64: 1e-7, torch.float32: 1e-3}[dtype]
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
    assert (found.diff() > 0).all()
    p = torch.tensor([0.01, 0.3, 0.5, 0.95], dtype=torch.float64)
    np.testing.assert_allclose(family.quantile(p), FAMILIES[family].ppf(p), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("family", FAMILIES)
def test_fisher_information_is_the_mean_squared_score(family):
    t = torch.linspace(-200, 200, 400_001, dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.float64).expand_as(t)
    loc, log_scale = (zero.clone().requires_grad_() for _ in range(2))
    log_prob = family.log_prob(t, loc, log_scale)
    scores = torch.autograd.grad(log_prob.sum(), (loc, log_scale))
    p = log_prob.exp().detach()
    found = [torch.trapezoid(p * score**2, t.detach()).item() for score in scores]
    assert found == pytest.approx(family.fisher_information, rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_distribution_of_a_cell(family):
    cells = family.distribution(torch.tensor([1.0]), torch.tensor([2.0]))
    x = torch.tensor([4.0])
    expected = family.log_prob(x, torch.tensor([1.0]), torch.tensor([2.0]).log())
    torch.testing.assert_close(cells.log_prob(x), expected)


def test_mixtures_of_student_components():
    loc = torch.tensor([[0.0], [3.0]], dtype=torch.float64)
    scale = torch.tensor([[1.0], [0.5]], dtype=torch.float64)
    known = [scipy.stats.t(4, float(m), float(s)) for m, s in zip(loc, scale, strict=True)]
    x = torch.tensor([1.3], dtype=torch.float64)
    cdf = np.mean([k.cdf(1.3) for k in known])
    assert mixture_cdf(x, loc, scale, StudentNoise).item() == pytest.approx(cdf)
    pdf = np.mean([k.pdf(1.3) for k in known])
    assert mixture_log_prob(x, loc, scale, StudentNoise).exp().item() == pytest.approx(pdf)
    q = mixture_quantile(0.9, loc, scale, StudentNoise)
    assert mixture_cdf(q, loc, scale, StudentNoise).item() == pytest.approx(0.9)
    t = np.linspace(-300, 300, 600_001)
    F = np.mean([k.cdf(t) for k in known], 0)
    crps = np.trapezoid((F - (t >= 1.3)) ** 2, t)
    assert mixture_crps(x, loc, scale, StudentNoise).item() == pytest.approx(crps, rel=0.02)


@pytest.mark.parametrize("noise", NOISE_MODELS)
def test_a_network_returns_its_distribution(noise):
    mlp = GaussianMLP(3, 2, (5,), noise=noise)
    x, v = torch.randn(7, 3), torch.randn(7, 2)
    p = mlp(x)
    expected = mlp.family.log_prob(v, *mlp.loc_and_log_scale(x)).sum(-1)
    torch.testing.assert_close(p.log_prob(v), expected)


def test_the_pullback_metric_is_that_of_the_family():
    normal = GaussianMLP(2, 4, (5,)).double()
    student = GaussianMLP(2, 4, (5,), noise="student").double()
    student.load_state_dict(normal.state_dict())
    for layer in (normal.log_scale, student.log_scale):
        torch.nn.init.zeros_(layer.weight)  # so that the location alone depends on z
    z = torch.randn(3, 2, dtype=torch.float64)
    torch.testing.assert_close(pullback_metric(student, z), 5 / 7 * pullback_metric(normal, z))


@pytest.fixture(scope="module")
def heavy():
    # Correlated columns, one of which has Student's noise with two degrees of freedom.
    rng = np.random.default_rng(0)
    X = rng.standard_normal((900, 2))
    y = X[:, 0] + 0.3 * rng.standard_t(2, 900)
    return X, y


def test_student_noise_suits_heavy_tails(heavy):
    X, y = heavy
    params = {"n_estimators": 1, "max_epochs": 60, "random_state": 0}
    scores, fits = {}, {}
    for noise in ("heteroscedastic", "student"):
        fits[noise] = GaussianVAERegressor(noise=noise, **params).fit(X[:600], y[:600])
        scores[noise] = fits[noise].score_samples(X[600:], y[600:]).mean()
    assert scores["student"] > scores["heteroscedastic"]
    model = fits["student"]
    assert coverage_score(model, X[600:], y[600:]) == pytest.approx(0.9, abs=0.06)
    assert neg_crps_score(model, X[600:610], y[600:610]) < 0
    drawn = model.sample(X[600:603], n_samples=20_000, random_state=0)
    quantiles = model.predict_quantiles(X[600:603], [0.1, 0.5, 0.9])
    np.testing.assert_allclose(np.quantile(drawn, [0.1, 0.5, 0.9], 0).T, quantiles, atol=0.05)
    mean, std = model.predict(X[600:603], return_std=True)
    np.testing.assert_allclose(drawn.mean(0), mean, atol=0.1)
    np.testing.assert_allclose(drawn.std(0), std, rtol=0.2)


@pytest.mark.parametrize("kind", [GaussianVAE, GaussianVAEClassifier])
def test_student_noise_in_the_other_estimators(kind, heavy):
    X, y = heavy
    table = np.c_[X, y]
    model = kind(2, noise="student", max_epochs=20, n_estimators=2, random_state=0)
    model.fit(table, (y > 0).astype(int))
    if kind is GaussianVAEClassifier:
        assert model.score(table, (y > 0).astype(int)) > 0.9
        assert np.isfinite(model.sample(table[:3])).all()
        return
    # Its density integrates to one over a box that holds nearly all of it.
    narrow = GaussianVAE(1, noise="student", max_epochs=20, n_estimators=1, random_state=0)
    narrow.fit(y[:, None])
    t = np.linspace(-400, 400, 80_001)
    total = np.trapezoid(np.exp(narrow.score_samples(t[:, None])), t)
    assert total == pytest.approx(1, abs=0.02)
    assert np.isfinite(model.sample(1000, random_state=0)).all()


@pytest.mark.parametrize("noise", NOISE_MODELS)
def test_the_estimators_draw_what_they_predict(noise, heavy):
    X, y = heavy
    params = {"noise": noise, "max_epochs": 3, "n_estimators": 2, "n_draws": 32, "random_state": 0}
    regressor = GaussianVAERegressor(**params).fit(X, y)
    drawn = regressor.sample(X[:2], n_samples=20_000, random_state=0)
    quantiles = regressor.predict_quantiles(X[:2], [0.1, 0.5, 0.9])
    np.testing.assert_allclose(np.quantile(drawn, [0.1, 0.5, 0.9], 0).T, quantiles, atol=0.06)
    classifier = GaussianVAEClassifier(**params).fit(X, y > 0, X_target=y)
    drawn = classifier.sample(X[:2], n_samples=20_000, random_state=0)
    mean, std = classifier.predict_target(X[:2], return_std=True)
    np.testing.assert_allclose(drawn.mean(0), mean, atol=0.06)
    np.testing.assert_allclose(drawn.std(0), std, rtol=0.2)
    vae = GaussianVAE(2, **params).fit(np.c_[X, y])
    rows = vae.sample(1000, random_state=0)
    assert vae.score(rows) > vae.score(2 * rows)
