import math

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from skgvae.nn import NOISE_MODELS, GaussianVAEModule
from skgvae.objectives import (
    NegativeBound,
    elbo,
    gaussian_log_prob,
    importance_log_weights,
    importance_weighted_bound,
    log_mean_exp,
)

pytestmark = pytest.mark.usefixtures("float64")


def naive_log_prob(x, loc, log_scale):
    total = torch.zeros(len(x))
    for i in range(len(x)):
        for j in range(x.shape[1]):
            s = math.exp(log_scale[i, j])
            total[i] -= math.log(s * math.sqrt(2 * math.pi))
            total[i] -= 0.5 * ((x[i, j] - loc[i, j]) / s) ** 2
    return total


def make_vae(noise="heteroscedastic"):
    generator = torch.Generator().manual_seed(0)
    vae = GaussianVAEModule(3, 2, 4, hidden_features=(5,), noise=noise, generator=generator)
    return vae.double()


def test_gaussian_log_prob_against_torch_and_a_naive_loop():
    x, loc, log_scale = torch.randn(3, 6, 4)
    expected = Independent(Normal(loc, log_scale.exp()), 1).log_prob(x)
    torch.testing.assert_close(gaussian_log_prob(x, loc, log_scale), expected)
    torch.testing.assert_close(
        gaussian_log_prob(x, loc, log_scale), naive_log_prob(x, loc, log_scale)
    )


def test_gaussian_log_prob_broadcasts_every_argument():
    full = gaussian_log_prob(torch.ones(3), torch.zeros(3), torch.zeros(3))
    one = torch.zeros(1)
    torch.testing.assert_close(gaussian_log_prob(torch.ones(3), one, one), full)
    torch.testing.assert_close(gaussian_log_prob(torch.ones(3), one, torch.zeros(3)), full)


@pytest.mark.parametrize("width", [1, 4])
def test_gaussian_log_prob_with_shared_scale(width):
    x, loc = torch.randn(2, 6, 4)
    log_scale = torch.randn(width)
    expected = gaussian_log_prob(x, loc, log_scale.expand(6, 4))
    torch.testing.assert_close(gaussian_log_prob(x, loc, log_scale), expected)


def test_gaussian_log_prob_gradient():
    inputs = [torch.randn(3, 2, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(gaussian_log_prob, inputs)


@pytest.mark.parametrize("d", [1, 2])
def test_gaussian_density_integrates_to_one(d):
    axis = torch.linspace(-12, 12, 801)
    grid = torch.cartesian_prod(*[axis] * d).view(-1, d)
    density = gaussian_log_prob(grid, torch.full((d,), 0.3), torch.full((d,), 0.2)).exp()
    cell = (axis[1] - axis[0]) ** d
    torch.testing.assert_close(density.sum() * cell, torch.tensor(1.0), atol=1e-6, rtol=0)


def test_log_mean_exp():
    log_w = torch.randn(5, 3)
    torch.testing.assert_close(log_mean_exp(log_w), log_w.exp().mean(0).log())
    assert torch.isfinite(log_mean_exp(log_w - 1e4)).all()


@pytest.mark.parametrize("noise", NOISE_MODELS)
@pytest.mark.parametrize("kl_weight", [0.0, 0.3, 1.0, 2.5])
def test_bounds_against_a_naive_loop(noise, kl_weight):
    vae = make_vae(noise)
    v1, v2, eps = torch.randn(5, 3), torch.randn(5, 4), torch.randn(7, 5, 2)
    q = vae.encoder(v1)
    log_lik, log_w = torch.zeros(7, 5), torch.zeros(7, 5)
    for k in range(7):
        for i in range(5):
            z = q.mean[i] + q.stddev[i] * eps[k, i]
            log_lik[k, i] = vae.decoder(z).log_prob(v2[i])
            log_p, log_q = vae.prior().log_prob(z), vae.encoder(v1[i]).log_prob(z)
            log_w[k, i] = log_lik[k, i] + log_p - log_q
    standard = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
    kl = kl_divergence(Independent(Normal(q.mean, q.stddev), 1), standard)

    torch.testing.assert_close(importance_log_weights(vae, v1, v2, eps), log_w)
    bound = importance_weighted_bound(vae, v1, v2, eps, kl_weight)
    bound_k = log_w.exp().mean(0).log()
    expected = kl_weight * bound_k + (1 - kl_weight) * log_lik.mean(0)
    if kl_weight > 1:
        expected = bound_k - (kl_weight - 1) * kl
    torch.testing.assert_close(bound.value, expected)
    torch.testing.assert_close(bound.kl, kl)
    bound = elbo(vae, v1, v2, eps, kl_weight)
    torch.testing.assert_close(bound.reconstruction, -log_lik.mean(0))
    torch.testing.assert_close(bound.kl, kl)
    torch.testing.assert_close(bound.value, log_lik.mean(0) - kl_weight * kl)


def test_draws_with_a_shared_axis_equal_repeated_draws():
    vae = make_vae()
    v1, v2, eps = torch.randn(5, 3), torch.randn(5, 4), torch.randn(7, 1, 2)
    shared = importance_weighted_bound(vae, v1, v2, eps)
    repeated = importance_weighted_bound(vae, v1, v2, eps.expand(7, 5, 2))
    for a, b in zip(shared, repeated, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("n_draws", [1, 3])
def test_loss_is_the_weighted_mean_of_the_bound(n_draws):
    vae = make_vae()
    v1, v2, eps = torch.randn(5, 3), torch.randn(5, 4), torch.randn(n_draws, 5, 2)
    bound = elbo if n_draws == 1 else importance_weighted_bound
    rows = bound(vae, v1, v2, eps, 0.5)
    loss = NegativeBound(bound, 0.5, n_draws)(vae, v1, v2, eps)
    torch.testing.assert_close(loss.value, -rows.value.mean())
    weight = torch.tensor([0.0, 1.0, 2.0, 1.0, 1.0])
    loss = NegativeBound(bound, 0.5, n_draws)(vae, v1, v2, eps, weight)
    torch.testing.assert_close(loss.value, -(weight * rows.value).mean())
    torch.testing.assert_close(loss.kl, (weight * rows.kl).mean())


def test_loss_gradient_by_finite_differences():
    vae = make_vae()
    v1, v2, eps = torch.randn(5, 3), torch.randn(5, 4), torch.randn(3, 5, 2)
    names, parameters = zip(*vae.named_parameters(), strict=True)

    class Loss(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.vae = vae

        def forward(self):
            return NegativeBound(importance_weighted_bound, 0.7, 3)(self.vae, v1, v2, eps).value

    def loss(*values):
        state = {f"vae.{name}": value for name, value in zip(names, values, strict=True)}
        return torch.func.functional_call(Loss(), state, ())

    assert torch.autograd.gradcheck(loss, parameters)
