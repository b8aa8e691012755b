"""Densities of rows: against the truth, against loops, and as many draws as it takes."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.datasets import load_breast_cancer
from sklearn.mixture import GaussianMixture

from skgvae import GaussianVAE, _density
from skgvae._density import TOLERANCE, log_density
from skgvae.likelihood import latent_draws
from skgvae.nn import GaussianVAEModule
from skgvae.objectives import decoded_log_prob


def linear_vae(seed=0, wrong=0.0, **params):
    """Return a module whose decoder is linear, its density, and rows of it."""
    rng = np.random.default_rng(seed)
    loadings, mean = rng.standard_normal((5, 2)), rng.standard_normal(5)
    noise = rng.uniform(0.1, 0.5, 5)
    vae = GaussianVAEModule(5, 2, **params).double()
    vae.start_at_factor_analysis(*map(torch.from_numpy, (loadings, noise, mean)))
    with torch.no_grad():
        vae.encoder.loc.bias.add_(wrong)
        vae.encoder.log_scale.bias.add_(wrong)
    truth = multivariate_normal(mean, loadings @ loadings.T + np.diag(noise))
    return vae, truth, truth.rvs(50, random_state=seed)


@pytest.fixture(scope="module")
def curved():
    """Modules fitted to a curved surface, and rows near it and off it."""
    rng = np.random.default_rng(0)
    t = rng.uniform(-2, 2, (600, 2))
    X = np.stack([t[:, 0], t[:, 1], np.sin(2 * t[:, 0]) + t[:, 1] ** 2], 1)
    X = X + 0.2 * rng.standard_normal(X.shape)
    model = GaussianVAE(
        2, max_epochs=30, n_estimators=3, prior=3, min_noise=0.1, random_state=0
    ).fit(X[:500])
    X = np.vstack([X[500:], X[500:540] + 0.4 * rng.standard_normal((40, 3))])
    modules = [copy.deepcopy(module).double() for module in model.modules_]
    return modules, torch.from_numpy(model._units.forward(X))


@torch.no_grad()
def true_log_prob(vae, x, n=2**19):
    """Return log p(x) by draws from the prior."""
    z = vae.prior.sample(n, torch.Generator().manual_seed(1))
    parts = []
    for own in z.split(2**13):
        parameters = vae.decoder.loc_and_log_scale(own[:, None])
        parts.append(torch.logsumexp(decoded_log_prob(vae, x, *parameters), 0))
    return torch.logsumexp(torch.stack(parts), 0) - math.log(n)


def density_of(vaes, x, n_first=64, seed=0):
    latents = vaes[0].encoder.out_features
    draws = [latent_draws(16 * n_first, latents, seed + m) for m in range(len(vaes))]
    return log_density(vaes, x, x, draws, n_first)


# The truth


@pytest.mark.parametrize("wrong", [0.0, 0.7])
def test_a_linear_model_is_exact_whatever_the_encoder_says(wrong):
    vae, truth, X = linear_vae(wrong=wrong)
    found = density_of([vae], torch.from_numpy(X))
    error = found.log_prob.numpy() - truth.logpdf(X)
    assert np.abs(error).max() < 0.1
    assert np.abs(error).mean() < (1e-9 if wrong == 0 else 0.02)
    assert found.std.max() <= TOLERANCE


def test_the_truth_is_within_the_standard_errors(curved):
    modules, x = curved
    for module in modules:
        truth, found = true_log_prob(module, x), density_of([module], x)
        assert (found.log_prob > truth - 0.2).all()  # which draws from the prior miss far out
        error = (found.log_prob - truth)[truth > -12]
        found = density_of([module], x[truth > -12])
        assert found.std.median() <= TOLERANCE
        assert error.mean().abs() < 0.02
        assert (error.abs() < 4 * found.std + 0.02).double().mean() > 0.97
        assert error.std() > 0.1 * found.std.mean()  # nor are these far too large


def test_several_models_are_the_mean_of_their_densities(curved):
    modules, x = curved
    parts = torch.stack([true_log_prob(module, x) for module in modules])
    truth = torch.logsumexp(parts, 0) - math.log(3)
    found = density_of(modules, x)
    assert (found.log_prob - truth).abs().mean() < 0.03
    assert ((found.log_prob - truth).abs() < 4 * found.std + 0.02).double().mean() > 0.97


@pytest.mark.parametrize("n_columns", [1, 2])
def test_a_density_integrates_to_one(n_columns):
    rng = np.random.default_rng(0)
    t = rng.uniform(-2, 2, (400, 1))
    X = np.hstack([t + 0.2 * rng.standard_normal((400, 1)), np.sin(2 * t)])[:, :n_columns]
    X = X + 0.1 * rng.standard_normal(X.shape)
    model = GaussianVAE(max_epochs=30, n_estimators=2, random_state=0).fit(X)
    n = {1: 2000, 2: 160}[n_columns]
    axes = [np.linspace(-4.5, 4.5, n)] * n_columns
    grid = np.stack(np.meshgrid(*axes), -1).reshape(-1, n_columns)
    total = np.exp(model.score_samples(grid)).sum() * (9 / (n - 1)) ** n_columns
    assert total == pytest.approx(1, abs=0.01)


def test_an_untrained_mixture_has_the_density_of_its_components():
    rng = np.random.default_rng(0)
    X = np.vstack([rng.standard_normal((150, 4)) + 4, rng.standard_normal((150, 4)) @ np.diag(
        [1, 2, 0.5, 1])])  # fmt: skip
    model = GaussianVAE(prior=2, max_epochs=0, random_state=0).fit(X)
    mixture = GaussianMixture(2, random_state=0).fit(X)
    scores, std = model.score_samples(X, return_std=True)
    assert std.max() < 0.1
    assert model.score(X) == pytest.approx(mixture.score(X), abs=0.1)
    assert np.corrcoef(scores, mixture.score_samples(X))[0, 1] > 0.95


# As many draws as it takes


def count_draws(monkeypatch):
    counts = {}

    class Sums(_density.Sums):
        def estimate(self, background):
            counts["last"] = self.counts.sum(0)
            return super().estimate(background)

    monkeypatch.setattr(_density, "Sums", Sums)
    return counts


def test_rows_that_are_settled_take_few_draws(monkeypatch):
    counts = count_draws(monkeypatch)
    vae, _, X = linear_vae()
    density_of([vae], torch.from_numpy(X), n_first=64)
    assert counts["last"].tolist() == [8] * 50
    vae, _, X = linear_vae(wrong=0.5)
    density_of([vae], torch.from_numpy(X), n_first=64)
    assert set(counts["last"].tolist()) <= {64, 256}


def test_a_model_whose_draws_miss_the_row_does_not_seem_to_matter_little():
    # At first sight its density is smaller by far than that of another, which is flat.
    good, truth, X = linear_vae(wrong=3.0)
    flat = GaussianVAEModule(5, 2).double()
    far = np.linalg.svd(np.cov(X.T))[0][:, 0] * 3
    wide = 3 * torch.ones(5)
    flat.start_at_factor_analysis(torch.zeros(5, 2), wide.square().double(), torch.from_numpy(far))
    found = density_of([good, flat], torch.from_numpy(X), n_first=16)
    wide_log_prob = multivariate_normal(far, 9 * np.eye(5)).logpdf(X)
    expected = np.logaddexp(truth.logpdf(X), wide_log_prob) - math.log(2)
    assert np.abs(found.log_prob.numpy() - expected).max() < 0.2


@pytest.mark.parametrize("n_first", [2, 3, 5, 8])
def test_few_draws_are_right_on_average(n_first):
    vae, truth, X = linear_vae(wrong=0.7)
    x = torch.from_numpy(X)
    ratios = [
        (density_of([vae], x, n_first, seed).log_prob.numpy() - truth.logpdf(X))
        for seed in range(300)
    ]
    assert np.exp(ratios).mean() == pytest.approx(1, abs=0.02)


def test_only_models_that_matter_take_more_draws(curved, monkeypatch):
    drawn = []

    class Proposal(_density.Proposal):
        def draw(self, rows, draws):
            drawn.append((id(self.vae), len(rows) * len(draws)))
            return super().draw(rows, draws)

    monkeypatch.setattr(_density, "Proposal", Proposal)
    (good, other, _), x = copy.deepcopy(curved)
    with torch.no_grad():
        other.decoder.loc.bias.add_(50.0)  # it denies all rows
    density_of([good, other], x, n_first=4)
    of = {model: sum(n for key, n in drawn if key == id(model)) for model in (good, other)}
    assert of[good] > of[other]
    assert of[other] <= len(x) * 4


def test_answers_do_not_depend_on_other_rows():
    X = load_breast_cancer().data[:, :8]
    model = GaussianVAE(max_epochs=10, random_state=0).fit(X)
    X = np.vstack([X, 30 * X[:5]])
    scores, std = model.score_samples(X, return_std=True)
    order = np.random.default_rng(0).permutation(len(X))
    for rows in order[:200], order[200:], order[:1], order:
        again, std_again = model.score_samples(X[rows], return_std=True)
        np.testing.assert_allclose(again, scores[rows], rtol=1e-7, atol=1e-7)
        np.testing.assert_allclose(std_again, std[rows], rtol=1e-5, atol=1e-7)


def test_more_draws_have_smaller_errors():
    X = load_breast_cancer().data
    model = GaussianVAE(max_epochs=10, random_state=0).fit(X)
    std = [
        model.set_params(n_draws=n).score_samples(X[:100], return_std=True)[1] for n in (20, 320)
    ]
    assert std[0].mean() > std[1].mean()
    assert (std[1] >= 0).all()


# Far from all rows


def test_far_away_the_density_falls_with_the_distance():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((500, 3)) @ rng.standard_normal((3, 5)) + 0.1 * rng.standard_normal(
        (500, 5)
    )
    model = GaussianVAE(max_epochs=0, random_state=0).fit(X)
    for direction in rng.standard_normal((10, 5)):
        ray = X.mean(0) + np.geomspace(20, 1e6, 40)[:, None] * direction * X.std(0)
        scores = model.score_samples(ray)
        assert np.isfinite(scores).all()
        assert (np.diff(scores) < 0).all()
        assert np.isfinite(model.score_samples(ray, return_std=True)[1]).all()


def test_a_linear_model_has_its_own_density_far_out():
    vae, truth, X = linear_vae()
    far = X.mean(0) + 4 * (X[:20] - X.mean(0))
    found = density_of([vae], torch.from_numpy(far)).log_prob.numpy()
    np.testing.assert_allclose(found, truth.logpdf(far), rtol=1e-6)


def test_a_proposal_that_is_not_finite_is_that_of_the_encoder():
    vae, _, X = linear_vae(wrong=0.5)
    with torch.no_grad():
        vae.decoder.linear.weight.mul_(1e200)
    found = density_of([vae], torch.from_numpy(X))
    assert torch.isfinite(found.log_prob).all()  # of the background


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_precisions_agree(dtype):
    X = load_breast_cancer().data[:, :6]
    model = GaussianVAE(max_epochs=5, random_state=0).fit(X)
    scores, std = model.score_samples(X.astype(dtype), return_std=True)
    assert scores.dtype == std.dtype == np.float64 or scores.dtype == dtype
    assert np.abs(scores - model.score_samples(X)).mean() < 0.05
