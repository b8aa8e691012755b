import io

import pytest
import torch
from sklearn.decomposition import PCA, FactorAnalysis
from torch import nn

from skgvae.nn import (
    NOISE_MODELS,
    ClassifierHead,
    GaussianMLP,
    GaussianVAEClassifierModule,
    GaussianVAEModule,
    SoftBound,
    StandardNormalPrior,
)
from skgvae.objectives import elbo, importance_weighted_bound


@pytest.mark.parametrize("noise", NOISE_MODELS)
@pytest.mark.parametrize("shape", [(), (5,), (3, 5)])
@pytest.mark.parametrize("hidden", [(), (7,), (7, 6)])
def test_shapes(noise, shape, hidden):
    vae = GaussianVAEModule(4, 2, 3, hidden_features=hidden, noise=noise)
    v1 = torch.randn(*shape, 4)
    q, z, p = vae(v1)
    assert q.batch_shape == p.batch_shape == shape
    assert (q.event_shape, z.shape[-1:], p.event_shape) == ((2,), (2,), (3,))
    _, z, p = vae(v1, n_draws=6)
    assert z.shape == (6, *shape, 2)
    assert p.log_prob(torch.zeros(*shape, 3)).shape == (6, *shape)


@pytest.mark.parametrize("noise", NOISE_MODELS)
@pytest.mark.parametrize("linear", [True, False])
def test_every_parameter_has_a_gradient_inside_a_larger_graph(noise, linear):
    class Graph(nn.Module):
        def __init__(self):
            super().__init__()
            self.before = nn.Linear(5, 4)
            self.vae = GaussianVAEModule(4, 2, hidden_features=(7, 6), noise=noise, linear=linear)
            self.after = nn.Linear(8, 2)

        def forward(self, x):
            v1 = self.before(x)
            _, _, p = self.vae(v1)
            return self.after(torch.cat([v1, p.rsample()], -1))

    graph = Graph()
    graph(torch.randn(20, 5)).square().sum().backward()
    for name, parameter in graph.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_module_is_repeatable_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    a, b = (GaussianVAEModule(4, 2, generator=torch.Generator().manual_seed(3)) for _ in "ab")
    for x, y in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(x, y)
    assert torch.equal(torch.get_rng_state(), before)
    c = GaussianVAEModule(4, 2)
    assert not torch.equal(c.encoder.loc.weight, a.encoder.loc.weight)


@pytest.mark.parametrize("noise", NOISE_MODELS)
def test_state_dict_round_trip(noise):
    a, b = (GaussianVAEModule(4, 2, noise=noise) for _ in "ab")
    buffer = io.BytesIO()
    torch.save(a.state_dict(), buffer)
    buffer.seek(0)
    b.load_state_dict(torch.load(buffer, weights_only=True))
    z = torch.randn(5, 2)
    x = torch.randn(5, 4)
    assert torch.equal(a.decoder(z).log_prob(x), b.decoder(z).log_prob(x))


def test_decoder_mirrors_the_encoder_and_repr_names_the_noise():
    vae = GaussianVAEModule(10, 2, hidden_features=(8, 5), noise="isotropic")
    widths = [[m.out_features for m in net.hidden if isinstance(m, nn.Linear)] for net in
              (vae.encoder, vae.decoder)]  # fmt: skip
    assert widths == [[8, 5], [5, 8]]
    assert "noise='isotropic'" in repr(vae)


@pytest.mark.parametrize("noise", NOISE_MODELS)
def test_noise_below_its_floor_still_has_a_gradient(noise):
    net = GaussianMLP(3, 4, noise=noise, min_scale=0.2)
    head = net.log_scale.bias if noise == "heteroscedastic" else net.shared_log_scale
    with torch.no_grad():
        head.fill_(-3.0)
    x = torch.randn(50, 3)
    (-net(x).log_prob(10 * torch.randn(50, 4)).mean()).backward()
    assert (head.grad < 0).all()  # towards more noise


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0)])
def test_impossible_bounds(low, high):
    with pytest.raises(ValueError, match="0 < low < high"):
        SoftBound(low, high)


def test_unknown_noise():
    with pytest.raises(ValueError, match="noise must be one of"):
        GaussianMLP(2, 2, noise="pink")


def test_soft_bound_holds_and_inverts(float64):
    bound = SoftBound(torch.tensor([0.01, 0.3]), 50.0)
    t = torch.linspace(-100, 100, 401)[:, None].expand(-1, 2)
    scale = bound(t).exp()
    assert (scale >= torch.tensor([0.01, 0.3]) * (1 - 1e-6)).all()
    assert (scale <= 50 * (1 + 1e-6)).all()
    inside = torch.tensor([[0.02, 0.4], [1.0, 1.0], [20.0, 20.0]]).log()
    torch.testing.assert_close(bound(bound.inverse(inside)), inside)
    assert torch.isfinite(bound.inverse(torch.tensor([-40.0, 40.0]))).all()


@pytest.mark.parametrize("noise", NOISE_MODELS)
def test_noise_never_below_its_floor(noise):
    net = GaussianMLP(3, 4, noise=noise, min_scale=0.2)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(100).sub_(50)
    _, log_scale = net.loc_and_log_scale(torch.randn(50, 3))
    assert (log_scale.exp() >= 0.2 * (1 - 1e-6)).all()


def test_set_linear_is_exact_and_needs_the_linear_path(float64):
    net = GaussianMLP(3, 2, hidden_features=(5,))
    weight, bias, log_scale = torch.randn(2, 3), torch.randn(2), torch.tensor([-3.0, 0.5])
    net.set_linear_(weight, bias, log_scale)
    x = torch.randn(7, 3)
    p = net(x)
    torch.testing.assert_close(p.mean, x @ weight.T + bias)
    torch.testing.assert_close(p.stddev.log(), log_scale.expand(7, 2))
    with pytest.raises(ValueError, match="linear=True"):
        GaussianMLP(3, 2, linear=False).set_linear_(weight, bias, log_scale)


@pytest.mark.parametrize("noise", ["homoscedastic", "isotropic"])
def test_shared_noise_update_is_the_running_average_of_the_batch_optimum(noise, float64):
    net = GaussianMLP(3, 4, noise=noise, min_scale=1e-3)
    x, y = torch.randn(50, 3), 2 * torch.randn(50, 4)
    old = net(x).variance[0]
    residual = (y - net(x).mean).square().mean(0)
    if noise == "isotropic":
        residual = residual.mean().expand(4)
    (-net(x).log_prob(y).mean()).backward()
    net.update_shared_noise_(0.3)
    torch.testing.assert_close(net(x).variance[0], 0.7 * old + 0.3 * residual)


def test_standard_normal_prior_against_torch(float64):
    prior = StandardNormalPrior(3).double()
    loc, log_scale = torch.randn(5, 3), torch.randn(5, 3)
    q = torch.distributions.Normal(loc, log_scale.exp())
    p = torch.distributions.Normal(torch.zeros(3), torch.ones(3))
    torch.testing.assert_close(prior.kl(loc, log_scale), torch.distributions.kl_divergence(q, p))
    torch.testing.assert_close(prior.log_prob(loc), prior().log_prob(loc))
    torch.testing.assert_close(prior.kl(torch.zeros(3), torch.zeros(3)), torch.zeros(3))
    draws = prior.sample(20_000, torch.Generator().manual_seed(0))
    assert draws.dtype == torch.float64
    torch.testing.assert_close(draws.mean(0), torch.zeros(3), atol=0.03, rtol=0)
    torch.testing.assert_close(draws.T.cov(), torch.eye(3), atol=0.05, rtol=0)


@pytest.mark.parametrize("n_factors", [1, 3])
@pytest.mark.parametrize("n_latents", [3, 5])
def test_factor_analysis_is_reproduced_to_rounding(n_factors, n_latents, cancer, float64):
    X = cancer[:, :8] / cancer[:, :8].std(0)
    model = FactorAnalysis(n_factors, svd_method="lapack").fit(X)
    vae = GaussianVAEModule(8, n_latents, noise="homoscedastic", min_noise=1e-4).double()
    vae.start_at_factor_analysis(
        torch.tensor(model.components_.T),
        torch.tensor(model.noise_variance_),
        torch.tensor(model.mean_),
    )
    x = torch.tensor(X)
    expected = torch.tensor(model.score_samples(X))
    # q is the exact posterior: every weight is the same, one draw is enough.
    bound = importance_weighted_bound(vae, x, x, torch.randn(1, len(x), n_latents)).value
    torch.testing.assert_close(bound, expected, rtol=1e-10, atol=1e-10)
    posterior = vae.encoder(x)
    eps = torch.cat([torch.eye(n_latents), -torch.eye(n_latents)])[:, None] * n_latents**0.5
    # The 2 L sigma points integrate the quadratic log density exactly.
    torch.testing.assert_close(elbo(vae, x, x, eps).value, expected, rtol=1e-10, atol=1e-10)
    assert posterior.mean.shape == (len(x), n_latents)


def test_probabilistic_pca_is_reproduced_to_rounding(cancer, float64):
    X = cancer[:, :8] / cancer[:, :8].std(0)
    model = PCA(3, svd_solver="full").fit(X)
    scale = torch.tensor((model.explained_variance_ - model.noise_variance_) ** 0.5)
    vae = GaussianVAEModule(8, 3, noise="isotropic", min_noise=1e-4).double()
    vae.start_at_factor_analysis(
        torch.tensor(model.components_.T) * scale,
        torch.full((8,), model.noise_variance_),
        torch.tensor(model.mean_),
    )
    x = torch.tensor(X)
    bound = importance_weighted_bound(vae, x, x, torch.randn(1, len(x), 3)).value
    expected = torch.tensor(model.score_samples(X))
    torch.testing.assert_close(bound, expected, rtol=1e-10, atol=1e-10)


def test_another_prior_can_take_the_place_of_the_standard_one(float64):
    class Shifted(StandardNormalPrior):
        def log_prob(self, z):
            return super().log_prob(z - 1)

        def kl(self, loc, log_scale, z=None):
            return super().kl(loc - 1, log_scale)

    x = torch.randn(6, 4)
    eps = torch.randn(50, 6, 2)
    a = GaussianVAEModule(4, 2, generator=torch.Generator().manual_seed(0))
    b = GaussianVAEModule(4, 2, prior=Shifted(2), generator=torch.Generator().manual_seed(0))
    for bound in (elbo, importance_weighted_bound):
        assert not torch.allclose(bound(a, x, x, eps).value, bound(b, x, x, eps).value)


# The joint module


@pytest.mark.parametrize("shape", [(), (5,), (3, 5)])
@pytest.mark.parametrize("hidden", [(), (7,), (7, 6)])
def test_shapes_of_the_joint_module(shape, hidden):
    head = ClassifierHead(4, 3, 6, hidden_features=hidden)
    joint = GaussianVAEClassifierModule(GaussianVAEModule(4, 2, 3), head)
    v1 = torch.randn(*shape, 4)
    logits, v2_estimate, out = joint(v1)
    assert (logits.shape, v2_estimate.shape, out.z.shape) == (
        (*shape, 6),
        (*shape, 3),
        (*shape, 2),
    )
    assert (logits == 0).all()  # at the start all classes are equally likely
    logits, v2_estimate, out = joint(v1, n_draws=8)
    assert logits.shape == (8, *shape, 6)
    assert v2_estimate.shape == out.likelihood.mean.shape == (8, *shape, 3)


def test_draws_of_the_joint_module_come_from_its_distributions():
    joint = GaussianVAEClassifierModule(GaussianVAEModule(4, 2, 3), ClassifierHead(4, 3, 2))
    v1 = torch.randn(1, 4)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        out = joint(v1, n_draws=50_000, generator=generator)
    standardised = (out.v2_estimate - out.vae.likelihood.mean) / out.vae.likelihood.stddev
    assert standardised.mean((0, 1)).numpy() == pytest.approx([0, 0, 0], abs=0.02)
    assert standardised.std((0, 1)).numpy() == pytest.approx([1, 1, 1], abs=0.02)
    again = joint(v1, n_draws=50_000, generator=generator.manual_seed(0))
    assert torch.equal(again.v2_estimate, out.v2_estimate)


def test_the_joint_module_accepts_any_classifier():
    class Difference(nn.Module):
        def forward(self, v1, v2_estimate):
            assert v1.ndim == v2_estimate.ndim == 2
            return v1 - v2_estimate

    joint = GaussianVAEClassifierModule(GaussianVAEModule(4, 2), Difference())
    v1 = torch.randn(5, 4)
    out = joint(v1, n_draws=3)
    torch.testing.assert_close(out.logits, v1 - out.v2_estimate)
