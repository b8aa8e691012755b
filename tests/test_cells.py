"""Cells on a grid and names: formulas against sums, integrals and slow references."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import log_softmax, logsumexp

from skgvae.nn import (
    CategoryCells,
    GaussianMLP,
    GaussianNoise,
    GaussianVAEModule,
    GridCells,
    MixedNoise,
    StudentNoise,
    pullback_metric,
)

REFERENCES = {GaussianNoise: stats.norm(), StudentNoise: stats.t(4)}


def interval(family, x, below, above, loc=0.0, log_scale=0.0, dtype=torch.float64):
    tensors = (torch.as_tensor(a, dtype=dtype) for a in (x, below, above, loc, log_scale))
    return family.log_interval(*tensors)


# The probability of an interval


@pytest.mark.parametrize("family", REFERENCES)
@pytest.mark.parametrize("width", [1e-6, 1e-3, 9.9e-3, 1.01e-2, 0.1, 1.0, 10.0])
def test_the_probability_of_an_interval_is_that_of_its_distribution(family, width):
    centre = np.linspace(-6, 6, 49)
    # In the left tail, where differences of the distribution function are exact.
    ends = np.sort(np.c_[-np.abs(centre) - width / 2, -np.abs(centre) + width / 2], 1)
    cdf = REFERENCES[family].cdf
    expected = np.log(cdf(ends[:, 1]) - cdf(ends[:, 0]))
    found = interval(family, centre, width / 2, width / 2).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4 if width > 1e-5 else 1e-3)


@pytest.mark.parametrize("width", [1e-4, 0.05, 1.0])
@pytest.mark.parametrize("u", [8.0, 20.0, 40.0])
def test_intervals_far_from_the_mean(u, width):
    # log of the integral of φ by its logarithm: nothing cancels.
    t = np.linspace(u - width / 2, u + width / 2, 4001)
    expected = logsumexp(stats.norm.logpdf(t[1:] / 2 + t[:-1] / 2)) + np.log(t[1] - t[0])
    for sign in (-1, 1):
        found = interval(GaussianNoise, sign * u, width / 2, width / 2)
        assert found.item() == pytest.approx(expected, abs=1e-3)
        single = interval(GaussianNoise, sign * u, width / 2, width / 2, dtype=torch.float32)
        assert single.item() == pytest.approx(expected, abs=2e-3 * max(1, u / 8))


def test_intervals_without_an_end():
    found = interval(GaussianNoise, [1.0, -30.0, 2.0, 0.0], [1, np.inf, 1, np.inf], [np.inf] * 4)
    expected = stats.norm.logsf([0.0, -np.inf, 1.0, -np.inf])
    np.testing.assert_allclose(found, expected, atol=1e-12)
    low = interval(GaussianNoise, -30.0, np.inf, 0.5)
    assert low.item() == pytest.approx(stats.norm.logcdf(-29.5), rel=1e-12)


@pytest.mark.parametrize("family", REFERENCES)
@pytest.mark.parametrize("width", [5e-3, 0.05, 1.0, 8.0])
def test_gradients_of_intervals_are_right(family, width):
    generator = torch.Generator().manual_seed(0)
    x = torch.linspace(-4, 4, 17, dtype=torch.float64)
    loc, log_scale = (
        (0.3 * torch.randn(17, generator=generator, dtype=torch.float64)).requires_grad_()
        for _ in range(2)
    )
    below = torch.full_like(x, width / 2)
    above = below.clone()
    below[0], above[-1] = torch.inf, torch.inf

    def log_p(loc, log_scale):
        return family.log_interval(x, below, above, loc, log_scale)

    assert torch.autograd.gradcheck(log_p, (loc, log_scale), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("family", REFERENCES)
def test_gradients_are_finite_wherever_a_value_is(family):
    x = torch.tensor([0.0, 6.0, -6.0, 40.0, -400.0, 1e4])
    for below, above in itertools.product([1e-7, 1e-2, 0.5, torch.inf], repeat=2):
        loc, log_scale = (torch.zeros(6, requires_grad=True) for _ in range(2))
        ends = (torch.full_like(x, end) for end in (below, above))
        family.log_interval(x, *ends, loc, log_scale).sum().backward()
        assert loc.grad.isfinite().all()
        assert log_scale.grad.isfinite().all()


# Columns on a grid


def grid(bend=torch.inf, low=-torch.inf, high=torch.inf, step=1.0):
    return GridCells([step], [low], [high], [0.7], [1.3], [bend]).double()


def standardised(values, bend=torch.inf):
    values = torch.as_tensor(values, dtype=torch.float64)[:, None]
    mapped = values if math.isinf(bend) else torch.asinh(values / bend)
    return (mapped - 0.7) / 1.3


@pytest.mark.parametrize("bend", [torch.inf, 2.0, 0.5])
@pytest.mark.parametrize("ends", [(-torch.inf, torch.inf), (0.0, torch.inf), (-1.0, 2.0)])
@pytest.mark.parametrize("family", REFERENCES)
def test_probabilities_of_all_values_add_up_to_one(bend, ends, family):
    low, high = ends
    values = np.arange(max(low, -300_000), min(high, 300_000) + 1)
    loc, log_scale = (torch.tensor([a], dtype=torch.float64) for a in (0.4, -0.5))
    cells = grid(bend, low, high)
    log_p = cells.log_prob(family, standardised(values, bend), loc, log_scale)
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_intervals_of_a_bent_column_meet():
    cells = grid(bend=3.0)
    x = standardised(np.arange(-50, 51), 3.0)
    below, above = cells.intervals(x)
    torch.testing.assert_close(x[:-1] + above[:-1], x[1:] - below[1:])
    torch.testing.assert_close(x + above, standardised(np.arange(-50, 51) + 0.5, 3.0))


def test_a_width_survives_single_precision():
    # A step of one in a column whose values are a million: their difference would be rounded.
    cells = GridCells([1.0], [0.0], [torch.inf], [1e6], [1e9], [torch.inf])
    x = torch.tensor([[0.5], [3.0]])
    log_p = cells.log_prob(GaussianNoise, x, torch.zeros(1), torch.zeros(1))
    expected = torch.tensor(stats.norm.logpdf([[0.5], [3.0]]) - np.log(1e9))
    torch.testing.assert_close(log_p, expected.float(), atol=1e-3, rtol=1e-4)


# Categories


def test_a_category_is_a_softmax_with_a_floor():
    cells = CategoryCells([3, 2], [0.5, 0.3, 0.2, 0.9, 0.1]).double()
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    present = torch.tensor([[0, 1, 0, 1, 0]] * 7, dtype=torch.float64)
    found = cells.log_prob(cells.standardised(present), logits)
    first, second = (np.exp(log_softmax(part, 1)) for part in np.split(logits, [3], 1))
    expected = np.log(0.999 * first[:, 1] + 0.001 / 3), np.log(0.999 * second[:, 0] + 0.001 / 2)
    np.testing.assert_allclose(found.sum(1), sum(expected), rtol=1e-6)
    np.testing.assert_allclose(cells.probabilities(logits)[:, :3].sum(1), 1)
    far = cells.log_prob(cells.standardised(present), 1e4 * logits)
    assert far.isfinite().all()


def test_draws_of_a_category_have_its_probabilities():
    cells = CategoryCells([3], [0.2, 0.3, 0.5]).double()
    logits = torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    eps = torch.randn(20_000, 3, generator=generator, dtype=torch.float64)
    share, scale = cells.share, (cells.share * (1 - cells.share)).sqrt()
    level = (cells.draw(logits, eps) * scale + share).argmax(1)
    found = torch.bincount(level, minlength=3) / len(level)
    torch.testing.assert_close(found.double(), cells.probabilities(logits), atol=0.01, rtol=0)


def test_the_linear_start_of_a_category_is_bayes_rule():
    # Levels at different means of a normal z: the logits are those of linear discriminants.
    rng = np.random.default_rng(0)
    means, share = np.array([[-1.0, 0.2], [0.5, 1.0], [1.0, -1.0]]), np.array([0.5, 0.3, 0.2])
    means -= share @ means
    cells = CategoryCells([3], share).double()
    scale = np.sqrt(share * (1 - share))
    # With one in the covariance of z: E[present | z] = share + share (mean of the level)ᵀ z.
    weight, bias = torch.tensor(share[:, None] * means / scale[:, None]), torch.zeros(3).double()
    slope, offset = cells.linear_start(weight, bias)
    np.testing.assert_allclose(slope, means, atol=1e-6)
    z = rng.standard_normal((5, 2))
    log_joint = np.log(share) - 0.5 * np.square(z[:, None] - means).sum(-1)
    expected = log_softmax(log_joint, 1)
    np.testing.assert_allclose(
        log_softmax(z @ slope.numpy().T + offset.numpy(), 1), expected, atol=1e-5
    )


# All kinds together

MIXED = {
    "n_continuous": 1,
    "grid": {"step": [1.0], "low": [0.0], "high": [torch.inf], "offset": [2.0], "scale": [1.5],
             "bend": [torch.inf]},
    "categories": {"sizes": [3], "share": [0.5, 0.3, 0.2]},
}  # fmt: skip


@pytest.mark.parametrize("noise", ["heteroscedastic", "homoscedastic", "isotropic", "student"])
def test_a_decoder_of_all_kinds_is_a_distribution(noise):
    decoder = GaussianMLP(2, 5, (8,), noise=noise, cells=MIXED).double()
    p = decoder(torch.zeros(1, 2, dtype=torch.float64))
    x = torch.linspace(-40, 40, 4001, dtype=torch.float64)
    counts = (torch.arange(60.0, dtype=torch.float64) - 2) / 1.5
    levels = decoder.family.categories.standardised(torch.eye(3, dtype=torch.float64))
    total = 0.0
    for count, level in itertools.product(counts, levels):
        row = torch.cat([count[None], level]).expand(len(x), -1)
        total += torch.trapezoid(p.log_prob(torch.cat([x[:, None], row], 1)).exp(), x).item()
    assert total == pytest.approx(1, abs=0.002)
    assert p.rsample().shape == (1, 5)


def test_a_stack_of_models_has_the_same_densities():
    from skgvae._stack import ModuleStack
    from skgvae.objectives import elbo

    vaes = [GaussianVAEModule(5, 2, hidden_features=(8,), cells=MIXED) for _ in range(3)]
    levels = vaes[0].decoder.family.categories.standardised(torch.eye(3))
    v1 = torch.cat([torch.randn(3, 1), torch.tensor([[-1.0], [0.0], [2.0]]), levels], 1)
    eps = torch.randn(4, 3, 2)
    stack = ModuleStack(vaes)
    rows, draws = v1.expand(3, -1, -1), eps.expand(3, -1, -1, -1)
    together = elbo(stack, rows, rows, draws).value
    apart = torch.stack([elbo(vae, v1, v1, eps).value for vae in vaes])
    torch.testing.assert_close(together, apart)


def test_the_fisher_information_of_levels_is_that_of_a_softmax():
    decoder = GaussianMLP(2, 3, (8,), cells={"n_continuous": 0, "categories": MIXED["categories"]})
    decoder = decoder.double()
    z = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda z: decoder.loc_and_log_scale(z)[0], z[0])
    p = decoder.loc_and_log_scale(z)[0][0].softmax(0).detach()
    expected = jacobian.T @ (torch.diag(p) - torch.outer(p, p)) @ jacobian
    torch.testing.assert_close(pullback_metric(decoder, z)[0].detach(), expected)


def test_blocks_that_are_empty():
    family = MixedNoise(GaussianNoise, 2)
    x = torch.randn(4, 2)
    zero = torch.zeros(2)
    torch.testing.assert_close(
        family.log_prob(x, zero, zero), GaussianNoise.log_prob(x, zero, zero)
    )
