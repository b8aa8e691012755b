"""Equal-weight mixtures of Gaussians in one dimension: what a predictive distribution is.

All functions take the mean and the standard deviation of each of K components,
of shape (K, *), and answer for every element of (*).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["mixture_cdf", "mixture_crps", "mixture_log_prob", "mixture_quantile"]


def mixture_cdf(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Return the distribution function at x, the average of Φ((x - loc) / scale).

    Parameters
    ----------
    x : Tensor of shape (*)
        Points.
    loc, scale : Tensor of shape (K, *)
        Components.
    """
    return torch.special.ndtr((x - loc) / scale).mean(0)


def mixture_log_prob(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Return the log density at x, in nats; parameters as for :func:`mixture_cdf`."""
    log_prob = -0.5 * ((x - loc) / scale).square() - scale.log() - 0.5 * math.log(2 * math.pi)
    return torch.logsumexp(log_prob, 0) - math.log(len(loc))


def mixture_quantile(p: float, loc: Tensor, scale: Tensor) -> Tensor:
    """Return the quantile: the root of ``mixture_cdf(x) = p``, by bisection.

    The root lies between the smallest and the largest quantile of the components, and is
    found to the precision of the dtype.

    Parameters
    ----------
    p : float
        Probability, in (0, 1).
    loc, scale : Tensor of shape (K, *)
        Components.
    """
    z = torch.special.ndtri(torch.tensor(p, dtype=loc.dtype, device=loc.device))
    low, high = (loc + z * scale).aminmax(dim=0)
    n_halvings = 60 if loc.dtype == torch.float64 else 30
    for _ in range(n_halvings):
        middle = 0.5 * (low + high)
        below = mixture_cdf(middle, loc, scale) < p
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return 0.5 * (low + high)


def mixture_crps(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
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

    References
    ----------
    Grimit, Gneiting, Berrocal & Johnson, "The continuous ranked probability score for
    circular variables and its application to mesoscale forecast ensemble verification",
    2006, doi:10.1256/qj.05.235.
    """
    spread = torch.zeros_like(x)
    for loc_k, scale_k in zip(loc, scale, strict=True):
        spread += _expected_distance(loc_k - loc, torch.hypot(scale_k, scale)).mean(0)
    return _expected_distance(x - loc, scale).mean(0) - 0.5 * spread / len(loc)


def _expected_distance(m, s):
    # E|Z| for Z ~ N(m, s²).
    t = m / s
    density = torch.exp(-0.5 * t.square()) / math.sqrt(2 * math.pi)
    return 2 * s * density + m * (2 * torch.special.ndtr(t) - 1)
