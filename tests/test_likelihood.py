import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from sklearn.decomposition import PCA
from torch.distributions import MultivariateNormal, Normal

from skgvae import likelihood
from skgvae.likelihood import (
    class_log_prob,
    decoded_components,
    decoded_covariance,
    decoded_moments,
    latent_draws,
    lower_bound,
    marginal_log_prob,
    predictive_log_prob,
)
from skgvae.nn import ClassifierHead, GaussianVAEClassifierModule, GaussianVAEModule

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def pca(cancer):
    """A module that equals probabilistic PCA, its rows and their log-likelihood."""
    X = cancer[:60, :5] / cancer[:, :5].std(0)
    model = PCA(2, svd_solver="full").fit(X)
    scale = torch.tensor((model.explained_variance_ - model.noise_variance_) ** 0.5)
    vae = GaussianVAEModule(5, 2, noise="isotropic", min_noise=1e-4).double()
    vae.start_at_factor_analysis(
        torch.tensor(model.components_.T) * scale,
        torch.full((5,), model.noise_variance_),
        torch.tensor(model.mean_),
    )
    return vae, torch.tensor(X), torch.tensor(model.score_samples(X))


@pytest.mark.parametrize("latent_features", [1, 3, 40])
def test_latent_draws_are_standard_normal(latent_features):
    draws = latent_draws(1024, latent_features, seed=0)
    assert draws.shape == (1024, latent_features)
    assert torch.isfinite(draws).all()
    assert kstest(draws[:, 0].numpy(), "norm").pvalue > 0.5
    # Far below 1 / sqrt(1024) = 0.03, the error of independent draws.
    assert draws.mean(0).abs().max() < 0.003
    assert torch.equal(draws, latent_draws(1024, latent_features, seed=0))
    assert not torch.equal(draws, latent_draws(1024, latent_features, seed=1))


@pytest.mark.parametrize("n_draws", [1, 16])
def test_exact_posterior_gives_the_exact_likelihood(pca, n_draws):
    vae, x, expected = pca
    log_prob = marginal_log_prob(vae, x, x, latent_draws(n_draws, 2, 0))
    torch.testing.assert_close(log_prob, expected, rtol=1e-10, atol=1e-10)


def test_bound_rises_with_the_draws_to_the_likelihood_under_a_wrong_encoder(pca):
    vae, x, expected = pca
    with torch.no_grad():
        vae.encoder.linear.weight.mul_(0.95)
        vae.encoder.log_scale.bias.add_(0.3)
    means, errors = [], []
    for n_draws, n_seeds in ((1, 100), (8, 100), (64, 400), (4096, 20)):
        by_seed = torch.stack(
            [
                marginal_log_prob(vae, x, x, latent_draws(n_draws, 2, seed)).mean()
                for seed in range(n_seeds)
            ]
        )
        means.append(by_seed.mean().item())
        errors.append(by_seed.std().item() / n_seeds**0.5)
    truth = expected.mean().item()
    assert means[0] < means[1] < means[2]
    assert means[2] < truth + 3 * errors[2]
    assert abs(means[3] - truth) < 3 * errors[3] + 1e-4
    assert means[0] < truth - 0.05
    elbo = lower_bound(vae, x, x, latent_draws(4096, 2, 0)).mean().item()
    assert elbo < means[3]


def test_several_models_are_the_mean_of_their_densities():
    vaes, x = make_vaes(3), torch.randn(6, 3)
    v2, draws = torch.randn(6, 4), latent_draws(12, 2, 0)
    shares = draws.split(4)

    def mean(logs):
        return torch.stack(logs).exp().mean(0).log()

    plain = [marginal_log_prob(vae, x, v2, own) for vae, own in zip(vaes, shares, strict=True)]
    torch.testing.assert_close(marginal_log_prob(vaes, x, v2, draws), mean(plain))
    bounds = [lower_bound(vae, x, v2, own) for vae, own in zip(vaes, shares, strict=True)]
    torch.testing.assert_close(lower_bound(vaes, x, v2, draws), mean(bounds))


def test_chunks_change_nothing(pca, monkeypatch):
    vae, x, _ = pca
    draws = latent_draws(100, 2, 0)
    whole = [marginal_log_prob(vae, x, x, draws), lower_bound(vae, x, x, draws)]
    whole += [predictive_log_prob(vae, x, x, draws), *decoded_components(vae, x, draws)]
    whole += decoded_moments(vae, x, draws)
    monkeypatch.setattr(likelihood, "MAX_ELEMENTS", 60 * 64 * 7)  # 7 draws at once
    chunks = [marginal_log_prob(vae, x, x, draws), lower_bound(vae, x, x, draws)]
    chunks += [predictive_log_prob(vae, x, x, draws), *decoded_components(vae, x, draws)]
    chunks += decoded_moments(vae, x, draws)
    for a, b in zip(whole, chunks, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def make_vaes(n, noise="heteroscedastic"):
    generator = torch.Generator().manual_seed(3)
    return [
        GaussianVAEModule(3, 2, 4, noise=noise, generator=generator).double() for _ in range(n)
    ]


@pytest.mark.parametrize("n_prior_components", [None, 20])
@pytest.mark.parametrize("n_numbers", [1, 5 * 80 - 1, 5 * 80, 5 * 80 * 3 + 1, 5 * 80 * 100])
def test_as_many_draws_at_once_as_memory_allows(n_numbers, n_prior_components, monkeypatch):
    vae = GaussianVAEModule(3, 4, hidden_features=(8,), n_prior_components=n_prior_components)
    width = n_prior_components * 4 if n_prior_components else 8
    sizes, own = [], vae.decoder.loc_and_log_scale

    def recorded(z):
        sizes.append(len(z))
        return own(z)

    monkeypatch.setattr(vae.decoder, "loc_and_log_scale", recorded)
    monkeypatch.setattr(likelihood, "MAX_ELEMENTS", n_numbers)
    x = torch.randn(5, 3)
    marginal_log_prob(vae.double(), x, x, latent_draws(7, 4, 0))
    assert max(sizes) == min(7, max(1, n_numbers // (5 * width)))
    assert sum(sizes) == 7


def test_answers_hold_no_graph():
    vaes = make_vaes(2)
    v1, v2, draws = torch.randn(5, 3), torch.randn(5, 4), latent_draws(4, 2, 0)
    joint = GaussianVAEClassifierModule(vaes[0], ClassifierHead(3, 4, 3)).double()
    answers = [
        marginal_log_prob(vaes[0], v1, v2, draws),
        lower_bound(vaes[0], v1, v2, draws),
        predictive_log_prob(vaes, v1, v2, draws),
        *decoded_moments(vaes, v1, draws),
        *decoded_components(vaes, v1, draws),
        *decoded_covariance(vaes, v1, draws),
        class_log_prob(joint, v1, latent_draws(4, 2 + 4, 0)),
    ]
    assert not any(answer.requires_grad for answer in answers)


def test_draws_that_models_cannot_share_are_refused():
    v1 = torch.randn(5, 3)
    with pytest.raises(ValueError, match="7 draws cannot be shared out equally between 2"):
        decoded_moments(make_vaes(2), v1, latent_draws(7, 2, 0))


def test_no_variance_is_negative():
    draws = torch.full((3, 2), 0.7)  # of equal draws there is none, but for rounding
    _, _, latent_variance = decoded_moments(make_vaes(1), torch.randn(200, 3), draws)
    assert (latent_variance >= 0).all()
    assert (latent_variance < 1e-12).all()


@torch.no_grad()
def components_by_a_loop(vaes, v1, draws, wide):
    """Return mean and scale of each component, of shape (K, n, 4): draws shared out in turn."""
    locs, scales = [], []
    own = len(draws) // len(vaes)
    for k, eps in enumerate(draws):
        vae = vaes[k // own]
        q = vae.encoder(v1)
        p = vae.decoder(q.mean + q.stddev * eps)
        locs.append(p.mean)
        scales.append(p.stddev * (3 if k in wide else 1))
    return torch.stack(locs), torch.stack(scales)


@pytest.mark.parametrize(("wide_share", "wide"), [(0.0, []), (0.17, [5]), (0.5, [1, 3, 5])])
@pytest.mark.parametrize("n_models", [1, 3])
@pytest.mark.parametrize("noise", ["heteroscedastic", "homoscedastic"])
@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_mixtures_of_models_against_a_loop(
    noise, n_models, wide_share, wide, at_once, monkeypatch
):
    monkeypatch.setattr(likelihood, "MAX_ELEMENTS", 5 * 64 * at_once)
    vaes = make_vaes(n_models, noise)
    assert max(max(p.shape, default=1) for p in vaes[0].decoder.parameters()) == 64
    v1, v2, draws = torch.randn(5, 3), torch.randn(5, 4), latent_draws(6, 2, 0)
    params = {"wide_share": wide_share} if wide else {}  # zero is the default
    loc, scale = components_by_a_loop(vaes, v1, draws, wide)
    for found, expected in zip(
        decoded_components(vaes, v1, draws, **params), (loc, scale), strict=True
    ):
        torch.testing.assert_close(found, expected)
    log_prob = Normal(loc, scale).log_prob(v2).sum(-1)
    expected = log_prob.exp().mean(0).log()
    torch.testing.assert_close(predictive_log_prob(vaes, v1, v2, draws, **params), expected)
    mean, noise_variance, latent_variance = decoded_moments(vaes, v1, draws, **params)
    torch.testing.assert_close(mean, loc.mean(0))
    torch.testing.assert_close(noise_variance, scale.square().mean(0))
    torch.testing.assert_close(latent_variance, loc.var(0, correction=0))
    mean, covariance = decoded_covariance(vaes, v1, draws, **params)
    torch.testing.assert_close(mean, loc.mean(0))
    for i in range(5):
        expected = torch.cov(loc[:, i].T, correction=0) + scale[:, i].square().mean(0).diag()
        torch.testing.assert_close(covariance[i], expected)
    root = torch.tril(torch.randn(4, 4)) + 2 * torch.eye(4)
    params["noise_root"] = root = root / root.norm(dim=1, keepdim=True)
    noises = scale[..., None] * (root @ root.T) * scale[..., None, :]
    expected = MultivariateNormal(loc, noises).log_prob(v2).exp().mean(0).log()
    found = predictive_log_prob(vaes, v1, v2, draws, **params)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    _, covariance = decoded_covariance(vaes, v1, draws, **params)
    for i in range(5):
        expected = torch.cov(loc[:, i].T, correction=0) + noises[:, i].mean(0)
        torch.testing.assert_close(covariance[i], expected)


@pytest.mark.parametrize("at_once", [1, 4, 100])
def test_bounds_of_one_model_against_a_loop(at_once, monkeypatch):
    monkeypatch.setattr(likelihood, "MAX_ELEMENTS", 5 * 64 * at_once)
    (vae,) = make_vaes(1)
    v1, v2, draws = torch.randn(5, 3), torch.randn(5, 4), latent_draws(6, 2, 0)
    q = vae.encoder(v1)
    log_lik, log_w = [], []
    for eps in draws:
        z = q.mean + q.stddev * eps
        log_lik.append(vae.decoder(z).log_prob(v2))
        log_w.append(log_lik[-1] + vae.prior().log_prob(z) - q.log_prob(z))
    kl = torch.distributions.kl_divergence(q, vae.prior())
    expected = (torch.stack(log_lik).mean(0) - kl).detach()
    torch.testing.assert_close(lower_bound(vae, v1, v2, draws), expected)
    expected = torch.stack(log_w).exp().mean(0).log().detach()
    torch.testing.assert_close(marginal_log_prob(vae, v1, v2, draws), expected)


@torch.no_grad()
@pytest.mark.parametrize("n_models", [1, 2])
def test_class_probabilities_against_a_loop(n_models):
    joints = [
        GaussianVAEClassifierModule(vae, ClassifierHead(3, 4, 3)).double()
        for vae in make_vaes(n_models)
    ]
    for parameter in (p for joint in joints for p in joint.classifier.parameters()):
        torch.nn.init.normal_(parameter)
    v1, draws = torch.randn(5, 3), latent_draws(4, 2 + 4, 0)
    total = 0
    for k, eps in enumerate(draws):
        joint = joints[k * n_models // 4]
        q = joint.encoder(v1)
        p = joint.decoder(q.mean + q.stddev * eps[:2])
        total = total + joint.classifier(v1, p.mean + p.stddev * eps[2:]).softmax(-1) / 4
    torch.testing.assert_close(class_log_prob(joints, v1, draws), total.log())


@pytest.mark.parametrize("latent_features", [1023, 1024, 1025])
def test_columns_beyond_the_sequence_are_random_ones(latent_features):
    draws = latent_draws(8, latent_features, seed=0)
    n_sobol = min(latent_features, 1024)
    engine = torch.quasirandom.SobolEngine(n_sobol, scramble=True, seed=0)
    uniform = torch.special.ndtr(draws)
    expected = engine.draw(8, dtype=torch.float64)
    expected[0] = expected[0].float()  # as the engine rounds it where the default dtype is float32
    torch.testing.assert_close(uniform[:, :n_sobol], expected, atol=1e-9, rtol=0)
    assert draws.dtype == torch.float64
    assert draws.shape == (8, latent_features)


def test_a_one_dimensional_density_integrates_to_one():
    generator = torch.Generator().manual_seed(4)
    vae = GaussianVAEModule(1, 1, hidden_features=(8,), generator=generator).double()
    with torch.no_grad():  # far from linear, with an encoder that is only roughly right
        vae.decoder.hidden[0].weight.mul_(3)
        vae.decoder.log_scale.bias.sub_(1)
    grid = torch.linspace(-15, 15, 3001)[:, None]
    density = marginal_log_prob(vae, grid, grid, latent_draws(2048, 1, 0)).exp()
    assert math.isclose((density.sum() * (grid[1] - grid[0])).item(), 1.0, abs_tol=2e-3)


@pytest.mark.parametrize("noise", ["heteroscedastic", "isotropic"])
def test_moments_against_brute_force(noise):
    generator = torch.Generator().manual_seed(1)
    vae = GaussianVAEModule(3, 2, 4, noise=noise, generator=generator).double()
    x = torch.randn(5, 3)
    q, _, p = vae(x, n_draws=200_000, generator=generator)
    v2, variance = p.sample(), p.variance.detach()
    mean, noise_variance, latent_variance = decoded_moments(vae, x, latent_draws(4096, 2, 0))
    np.testing.assert_allclose(mean, v2.mean(0), atol=0.02)
    np.testing.assert_allclose(noise_variance, variance.mean(0), rtol=0.01)
    np.testing.assert_allclose(noise_variance + latent_variance, v2.var(0), rtol=0.02)
    assert (latent_variance > 0).all()
    assert q.batch_shape == (5,)


def test_latent_variance_does_not_cancel_far_from_zero():
    vae = GaussianVAEModule(2, 1, 2).double()
    weight = torch.tensor([[1e-3], [2e-3]])
    vae.decoder.set_linear_(weight, torch.tensor([1e6, -1e6]), torch.zeros(2))
    vae.encoder.set_linear_(torch.zeros(1, 2), torch.zeros(1), torch.zeros(1))
    _, _, variance = decoded_moments(vae, torch.zeros(1, 2), latent_draws(4096, 1, 0))
    torch.testing.assert_close(variance[0], weight[:, 0] ** 2, rtol=0.01, atol=0)


def test_class_probabilities_are_averages_over_z_and_v2(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    vae = GaussianVAEModule(3, 2, 2, generator=generator)
    joint = GaussianVAEClassifierModule(vae, ClassifierHead(3, 2, 3)).double()
    for parameter in joint.classifier.parameters():
        torch.nn.init.normal_(parameter)
    v1 = torch.randn(4, 3)
    draws = latent_draws(4096, 4, seed=0)
    found = class_log_prob(joint, v1, draws).exp()
    many = joint(v1, n_draws=100_000).logits.softmax(-1).mean(0)
    torch.testing.assert_close(found, many, atol=5e-3, rtol=0)
    no_noise = class_log_prob(joint, v1, torch.zeros(1, 4)).exp()
    assert (found - no_noise).abs().max() > 0.02  # the draws matter
    monkeypatch.setattr(likelihood, "MAX_ELEMENTS", 1000)
    torch.testing.assert_close(class_log_prob(joint, v1, draws).exp(), found)


@pytest.mark.parametrize(("edge", "inside"), [(0.0, 2**-32), (1.0, 1 - 2**-32)])
def test_a_point_at_the_edge_of_the_sequence_is_finite(edge, inside, monkeypatch):
    class AtEdge:
        def __init__(self, dimension, **params):
            self.dimension = dimension

        def draw(self, n, dtype):
            return torch.full((n, self.dimension), edge, dtype=dtype)

    monkeypatch.setattr(torch.quasirandom, "SobolEngine", AtEdge)
    expected = torch.special.ndtri(torch.full((2, 3), inside))
    assert torch.equal(latent_draws(2, 3, seed=0), expected)


def test_more_columns_than_the_sequence_has():
    draws = latent_draws(64, 30_000, seed=0)
    assert draws.shape == (64, 30_000)
    assert draws.mean().item() == pytest.approx(0, abs=0.01)
    assert draws.std().item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("latent_features", [3, 1030])
def test_draws_do_not_depend_on_torchs_defaults(latent_features):
    expected = latent_draws(8, latent_features, seed=0)
    torch.set_default_dtype(torch.float32)  # the fixture puts back what it found
    assert torch.equal(latent_draws(8, latent_features, seed=0), expected)
    with torch.device("meta"):
        assert torch.equal(latent_draws(8, latent_features, seed=0), expected)


@pytest.mark.parametrize("n_prior_components", [None, 2])
@pytest.mark.parametrize("noise", ["heteroscedastic", "isotropic"])
def test_no_rows_have_no_answers(noise, n_prior_components):
    params = {"noise": noise, "n_prior_components": n_prior_components}
    vaes = [GaussianVAEModule(3, 2, 4, **params).double() for _ in range(2)]
    v1, v2, draws = torch.zeros(0, 3), torch.zeros(0, 4), latent_draws(6, 2, 0)
    assert marginal_log_prob(vaes, v1, v2, draws).shape == (0,)
    assert lower_bound(vaes, v1, v2, draws).shape == (0,)
    assert predictive_log_prob(vaes, v1, v2, draws, 3.0).shape == (0,)
    assert [m.shape for m in decoded_moments(vaes, v1, draws, 3.0)] == [(0, 4)] * 3
    assert [m.shape for m in decoded_components(vaes, v1, draws)] == [(6, 0, 4)] * 2
    assert [m.shape for m in decoded_covariance(vaes, v1, draws)] == [(0, 4), (0, 4, 4)]
    joints = [GaussianVAEClassifierModule(vae, ClassifierHead(3, 4, 5)).double() for vae in vaes]
    assert class_log_prob(joints, v1, latent_draws(6, 6, 0)).shape == (0, 5)
