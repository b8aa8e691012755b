import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from skgvae._mixture import mixture_cdf, mixture_crps, mixture_log_prob, mixture_quantile

pytestmark = pytest.mark.usefixtures("float64")

LOC = torch.tensor([[-2.0, 0.0, 5.0], [1.0, 0.0, 5.1], [3.0, 0.0, 4.9]], dtype=torch.float64)
SCALE = torch.tensor([[0.3, 1.0, 2.0], [1.0, 1.0, 0.1], [0.2, 1.0, 0.5]], dtype=torch.float64)


def cdf(t, i):
    return np.mean([stats.norm.cdf(t, m, s) for m, s in zip(LOC[:, i], SCALE[:, i], strict=True)])


@pytest.mark.parametrize("i", [0, 1, 2])
@pytest.mark.parametrize("x", [-3.0, 0.1, 5.0])
def test_density_and_distribution_function(i, x):
    point = torch.full((3,), x)
    density = np.mean(
        [stats.norm.pdf(x, m, s) for m, s in zip(LOC[:, i], SCALE[:, i], strict=True)]
    )
    assert mixture_log_prob(point, LOC, SCALE)[i].item() == pytest.approx(math.log(density))
    assert mixture_cdf(point, LOC, SCALE)[i].item() == pytest.approx(cdf(x, i))


@pytest.mark.parametrize("p", [1e-6, 0.05, 0.5, 0.95, 1 - 1e-6])
def test_quantiles_invert_the_distribution_function(p):
    x = mixture_quantile(p, LOC, SCALE)
    torch.testing.assert_close(mixture_cdf(x, LOC, SCALE), torch.full((3,), p), rtol=1e-9, atol=0)
    assert x[1].item() == pytest.approx(stats.norm.ppf(p), abs=1e-9)


@pytest.mark.parametrize("x", [-3.0, 0.1, 5.0])
def test_crps_against_its_integral(x):
    crps = mixture_crps(torch.full((3,), x), LOC, SCALE)
    for i in range(3):
        below = integrate.quad(lambda t, i=i: cdf(t, i) ** 2, -30, x, limit=200, points=[-2, 1])[0]
        above = integrate.quad(
            lambda t, i=i: (1 - cdf(t, i)) ** 2, x, 40, limit=200, points=[5.0, 6.0]
        )[0]
        assert crps[i].item() == pytest.approx(below + above, abs=1e-5)


def test_crps_of_a_point_is_the_absolute_error():
    crps = mixture_crps(torch.tensor([2.0]), torch.tensor([[5.0]]), torch.tensor([[1e-9]]))
    assert crps.item() == pytest.approx(3.0)
    exactly = mixture_crps(torch.tensor([2.0]), torch.tensor([[5.0]]), torch.tensor([[0.0]]))
    assert exactly.item() == 3.0


def test_many_columns_are_as_few():
    generator = torch.Generator().manual_seed(0)
    loc = torch.randn(7, 30, 20, generator=generator)
    scale = torch.rand(7, 30, 20, generator=generator) + 0.1
    x = torch.randn(30, 20, generator=generator)
    whole, quantile = mixture_crps(x, loc, scale), mixture_quantile(0.3, loc, scale)
    for i, j in ((0, 0), (12, 16), (12, 17), (29, 19)):  # 256 = 12 * 20 + 16
        part = loc[:, i, j], scale[:, i, j]
        torch.testing.assert_close(mixture_crps(x[i, j], *part), whole[i, j])
        torch.testing.assert_close(mixture_quantile(0.3, *part), quantile[i, j])
