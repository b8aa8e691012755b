"""Equal-weight mixtures in one dimension: what a predictive distribution is.

All functions take the location and the scale of each of K components, of shape (K, *), and
answer for every element of (*). The components are normal, or of another family of noise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .nn.noise import GaussianNoise, Noise

__all__ = ["mixture_cdf", "mixture_crps", "mixture_log_prob", "mixture_quantile"]

_COLUMNS = 256  # at once, where a function passes over the components many times


def mixture_cdf(
    x: Tensor, loc: Tensor, scale: Tensor, noise: type[Noise] = GaussianNoise
) -> Tensor:
    """Return the distribution function at x, the average of F((x - loc) / scale).

    Parameters
    ----------
    x : Tensor of shape (*)
        Points.
    loc, scale : Tensor of shape (K, *)
        Components; one of scale zero is a point mass.
    noise : subclass of Noise
        Family of the components, F its distribution function.
    """
    return noise.cdf(_standardised(x, loc, scale)).mean(0)


def mixture_log_prob(
    x: Tensor, loc: Tensor, scale: Tensor, noise: type[Noise] = GaussianNoise
) -> Tensor:
    """Return the log density at x, in nats; parameters as for :func:`mixture_cdf`."""
    t = (x - loc) / scale
    t = torch.where(t.isnan(), 0.0, t)  # at a point mass, whose log scale is -inf
    log_prob = noise.log_density(t) - scale.log()
    log_prob = torch.where(t.isinf(), -torch.inf, log_prob)  # not inf - inf
    return torch.logsumexp(log_prob, 0) - math.log(len(loc))


def mixture_quantile(
    p: float, loc: Tensor, scale: Tensor, noise: type[Noise] = GaussianNoise
) -> Tensor:
    """Return the quantile: the root of ``mixture_cdf(x) = p``, by Newton's method and bisection.

    The root lies between the smallest and the largest quantile of the components, and is
    found to the precision of the dtype.

    Parameters
    ----------
    p : float
        Probability, in (0, 1).
    loc, scale : Tensor of shape (K, *)
        Components.
    noise : subclass of Noise
        Family of the components.
    """
    z = noise.quantile(torch.tensor(p, dtype=loc.dtype, device=loc.device))
    n_halvings, eps = 60 if loc.dtype == torch.float64 else 30, torch.finfo(loc.dtype).eps

    def quantile(loc, scale):
        low, high = (loc + z * scale).aminmax(dim=0)
        width = high - low
        x, is_found = 0.5 * (low + high), torch.zeros_like(low, dtype=torch.bool)
        for i in range(2 * n_halvings):
            t = _standardised(x, loc, scale)
            miss = noise.cdf(t).mean(0) - p
            low, high = torch.where(miss < 0, x, low), torch.where(miss < 0, high, x)
            slope = (noise.log_density(t).exp() / scale).mean(0)
            newton, middle = x - miss / slope, 0.5 * (low + high)
            is_inside = (newton > low) & (newton < high)
            nearer = torch.where(is_inside & (i < n_halvings), newton, middle)
            # Found for good: no answer may depend on what else is asked for.
            is_found |= (miss.abs() <= 8 * eps * p) | (high - low <= 2 * eps * (width + x.abs()))
            if is_found.all():
                break
            x = torch.where(is_found, x, nearer)
        return x

    return _by_columns(quantile, loc, scale)


def mixture_crps(
    x: Tensor, loc: Tensor, scale: Tensor, noise: type[Noise] = GaussianNoise
) -> Tensor:
    r"""Return the continuous ranked probability score, in the units of x; less is better.

    .. math::

        \tfrac1K \sum_k A(x - \mu_k, \sigma_k) - \tfrac1{2 K^2} \sum_{kl}
        A(\mu_k - \mu_l, \sqrt{\sigma_k^2 + \sigma_l^2}), \quad
        A(m, s) = 2 s \varphi(m / s) + m (2 \Phi(m / s) - 1)

    Parameters
    ----------
    x : Tensor of shape (*)
        Observations.
    loc, scale : Tensor of shape (K, *)
        Components.
    noise : subclass of Noise
        Family of the components. The closed form is that of normal ones; for others the score is
        twice the mean quantile loss at 200 probabilities, which is right to about 1 %.

    References
    ----------
    Grimit, Gneiting, Berrocal & Johnson, "The continuous ranked probability score for
    circular variables and its application to mesoscale forecast ensemble verification",
    2006, doi:10.1256/qj.05.235.
    """
    if noise is not GaussianNoise:
        return _mean_quantile_loss(x, loc, scale, noise)

    def half_spread(loc, scale):
        # Each pair once, as the sum is symmetric; and each component with itself.
        total = scale.sum(0) / math.sqrt(math.pi)
        for k in range(1, len(loc)):
            distance = _expected_distance(loc[k] - loc[:k], torch.hypot(scale[k], scale[:k]))
            total += distance.sum(0)
        return total / len(loc) ** 2

    return _expected_distance(x - loc, scale).mean(0) - _by_columns(half_spread, loc, scale)


def _mean_quantile_loss(x, loc, scale, noise, n=200):
    total = torch.zeros_like(x)
    for p in ((i + 0.5) / n for i in range(n)):
        miss = x - mixture_quantile(p, loc, scale, noise)
        total += torch.maximum(p * miss, (p - 1) * miss)
    return 2 * total / n


def _expected_distance(m, s):
    # E|Z| for Z ~ N(m, s²).
    t = _standardised(m, 0.0, s)
    density = torch.exp(-0.5 * t.square()) / math.sqrt(2 * math.pi)
    return 2 * s * density + m * (2 * torch.special.ndtr(t) - 1)


def _standardised(x, loc, scale):
    # From the right at a point mass, where 0 / 0 would be undefined.
    t = (x - loc) / scale
    return torch.where(t.isnan() & (scale == 0), torch.inf, t)


def _by_columns(function, loc, scale):
    # As many columns at once as stay in the cache: several times faster.
    parts = zip(*(a.reshape(len(a), -1).split(_COLUMNS, 1) for a in (loc, scale)), strict=True)
    return torch.cat([function(*part) for part in parts]).view(loc.shape[1:])
