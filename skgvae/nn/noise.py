"""What is the noise of a cell? The families of p(v2 | z), and how their scale depends on z.

A family is the distribution of noise with location zero and scale one, as functions of tensors;
a cell of v2 is ``μ(z) + σ(z) · noise``. All else (sums over cells, weights, mixtures over z) is
written once for all families. A new one is a class like :class:`StudentNoise` and a line in
``NOISE_MODELS``, and the estimators know it by that name.

Columns whose values are on a grid, or names, have kinds of their own: see
``cells.py``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal, StudentT

__all__ = ["NOISE_MODELS", "GaussianNoise", "Noise", "NoiseModel", "StudentNoise"]


class Noise(ABC):
    """A family of distributions with a location and a scale, for each cell."""

    variance: float
    """Variance at scale one."""

    fisher_information: tuple[float, float]
    """About the location and the logarithm of the scale, at scale one."""

    @staticmethod
    @abstractmethod
    def log_density(t: Tensor) -> Tensor:
        """Return the log density at t, in nats."""

    @staticmethod
    @abstractmethod
    def cdf(t: Tensor) -> Tensor:
        """Return the probability of values up to t."""

    @staticmethod
    @abstractmethod
    def from_normal(eps: Tensor) -> Tensor:
        """Return draws, given standard normal ones: an increasing function of these."""

    @staticmethod
    @abstractmethod
    def distribution(loc: Tensor, scale: Tensor) -> Distribution:
        """Return the distribution of each cell."""

    @classmethod
    def log_prob(cls, x: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
        """Return the log density of each cell, in nats.

        Parameters
        ----------
        x, loc, log_scale : Tensor of shape (*, d)
            Cells, location and log scale; they broadcast.
        """
        return cls.log_density((x - loc) * torch.exp(-log_scale)) - log_scale

    @classmethod
    def log_interval(
        cls, x: Tensor, below: Tensor, above: Tensor, loc: Tensor, log_scale: Tensor
    ) -> Tensor:
        """Return the log probability of an interval around each cell, in nats.

        Parameters
        ----------
        x, below, above : Tensor of shape (*, d)
            Points, and how far the interval reaches below and above them: positive, perhaps
            infinite.
        loc, log_scale : Tensor of shape (*, d)
            Location and log scale; all five broadcast.
        """
        inverse = torch.exp(-log_scale)
        below, above = (end.clamp(max=1e12) for end in (below, above))  # for gradients
        low, high, width, centre = _in_left_tail(x - loc, below, above, inverse)[:4]
        up_to_high, up_to_low = cls.cdf(high), cls.cdf(low)
        is_direct = up_to_low < 0.8 * up_to_high  # else much of their difference is rounding
        probability = torch.where(is_direct, up_to_high - up_to_low, 1.0)
        low, high, centre = (torch.where(is_direct, 0.0, t) for t in (low, high, centre))
        middle, width = cls.log_density(centre), torch.where(is_direct, 1.0, width)
        ends = sum(torch.exp(cls.log_density(t) - middle) for t in (low, high))
        narrow = middle + torch.log((4 + ends) / 6) + width.log()  # by Simpson's rule
        return torch.where(is_direct, probability.clamp(min=1e-37).log(), narrow)

    @classmethod
    def draw(cls, loc: Tensor, log_scale: Tensor, eps: Tensor) -> Tensor:
        """Return draws of cells, given standard normal ones of the same shape as the cells."""
        return torch.addcmul(loc, log_scale.exp(), cls.from_normal(eps))

    @staticmethod
    def linear_start(
        weight: Tensor, bias: Tensor, log_scale: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return locations and log scale that go with a linear Gaussian model of the cells."""
        return weight, bias, log_scale

    @staticmethod
    def dithered(x: Tensor, generator: torch.Generator) -> Tensor:
        """Return values as if they had not been rounded: continuous ones as they are."""
        return x

    @classmethod
    def cell_variance(cls, loc: Tensor, log_scale: Tensor) -> Tensor:
        """Return the variance of cells, given location and log scale."""
        return cls.variance * torch.exp(2 * log_scale).expand_as(loc)

    @classmethod
    def information_roots(
        cls, loc: Tensor, log_scale: Tensor, by_loc: Tensor, by_log_scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        r"""Return A and B such that :math:`A A^T + B B^T` is the Fisher information about z.

        Parameters
        ----------
        loc, log_scale : Tensor of shape (*, d)
            Location and log scale at z.
        by_loc, by_log_scale : Tensor of shape (*, l, d)
            Their derivatives with respect to z.
        """
        of_loc, of_scale = cls.fisher_information
        scaled = by_loc * (math.sqrt(of_loc) * torch.exp(-log_scale))[..., None, :]
        return scaled, math.sqrt(of_scale) * by_log_scale

    @staticmethod
    def log_volume(x: Tensor) -> Tensor:
        """Return the log width of what each value stands for: zero for a density."""
        return torch.zeros_like(x)

    @classmethod
    def score(cls, x: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
        """Return how far cells are from their location, such that A score is the pull on z.

        A belongs to :meth:`information_roots`; of a cell that is normal the score is its distance
        in standard deviations. Parameters as for :meth:`log_prob`.
        """
        return math.sqrt(cls.fisher_information[0]) * (x - loc) * torch.exp(-log_scale)

    @classmethod
    def quantile(cls, p: Tensor) -> Tensor:
        """Return the quantile of probability p at scale one."""
        return cls.from_normal(torch.special.ndtri(p))


class GaussianNoise(Noise):
    """The normal distribution."""

    variance = 1.0
    fisher_information = 1.0, 2.0
    _LOG_PEAK = -0.5 * math.log(2 * math.pi)

    @classmethod
    def log_density(cls, t: Tensor) -> Tensor:
        """Return the log density at t, in nats."""
        return cls._LOG_PEAK - 0.5 * t.square()

    @classmethod
    def log_prob(cls, x: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
        """Return the log density of each cell, in nats; in fewer operations."""
        minus = -log_scale
        scaled = (x - loc) * minus.exp()
        return torch.addcmul(minus + cls._LOG_PEAK, scaled, scaled, value=-0.5)

    @classmethod
    def log_interval(
        cls, x: Tensor, below: Tensor, above: Tensor, loc: Tensor, log_scale: Tensor
    ) -> Tensor:
        """Return the log probability of each interval, exact in the tails and for narrow ones."""
        parts = torch.broadcast_tensors(x, below, above, loc, log_scale)
        if torch.is_grad_enabled() and (loc.requires_grad or log_scale.requires_grad):
            return _LogNormalInterval.apply(*parts)[0]
        return _log_normal_interval(*parts, with_gradient=False)

    @staticmethod
    def cdf(t: Tensor) -> Tensor:
        """Return the probability of values up to t."""
        return torch.special.ndtr(t)

    @staticmethod
    def from_normal(eps: Tensor) -> Tensor:
        """Return the draws themselves."""
        return eps

    @staticmethod
    def distribution(loc: Tensor, scale: Tensor) -> Distribution:
        """Return the distribution of each cell."""
        return Normal(loc, scale, validate_args=False)


class _LogNormalInterval(torch.autograd.Function):
    """Log probability of an interval under a normal distribution, with its gradient written out.

    With the ends a < b in standard deviations, and the sign of the interval such that its centre
    u is not positive:

    - log(Φ(b) - Φ(a)), in which little cancels;
    - b < -12: log φ(b) + log(M(b) - exp((b² - a²) / 2) M(a)) with the asymptotic series of Mills'
      ratio M = Φ / φ, where Φ would be zero in single precision;
    - width h < 0.1: log φ(u) + log h + log(sinh(t) / t) - h² / 24 with t = u h / 2, the integral
      of the density's series, where the difference would be rounded.
    """

    @staticmethod
    def forward(x, below, above, loc, log_scale):
        return _log_normal_interval(x, below, above, loc, log_scale)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, by_loc, by_log_scale = output
        ctx.mark_non_differentiable(by_loc, by_log_scale)
        ctx.save_for_backward(by_loc, by_log_scale)

    @staticmethod
    def backward(ctx, grad, *_):
        by_loc, by_log_scale = ctx.saved_tensors
        return None, None, None, grad * by_loc, grad * by_log_scale


NARROW, FAR = 0.1, -12.0


def _log_normal_interval(x, below, above, loc, log_scale, with_gradient=True):
    # The log probability and its derivatives with respect to location and log scale.
    inverse, log_peak = torch.exp(-log_scale), -0.5 * math.log(2 * math.pi)
    a, b, h, u, is_right = _in_left_tail(x - loc, below, above, inverse)
    is_far, is_narrow = b < FAR, h < NARROW
    root = math.sqrt(0.5)  # erfc has no rounded tail, ndtr has one in single precision
    within = 0.5 * (torch.erfc(-root * b) - torch.erfc(-root * a))
    log_p = within.log()
    if with_gradient:
        at_a, at_b = (torch.exp(log_peak - 0.5 * t.square()) / within for t in (a, b))
    if _may_be_any(is_far):
        factor = torch.exp(torch.where(is_far, u * h, 0.0))  # φ(a) / φ(b)
        rest = _mills(b.clamp(max=FAR)) - factor * _mills(a.clamp(max=FAR))
        log_p = torch.where(is_far, log_peak - 0.5 * b.square() + rest.log(), log_p)
        if with_gradient:
            at_a = torch.where(is_far, factor / rest, at_a)
            at_b = torch.where(is_far, 1 / rest, at_b)
    if with_gradient:
        by_loc = at_a - at_b  # in units of 1 / σ
        by_log_scale = _product(a, at_a) - _product(b, at_b)
    if _may_be_any(is_narrow):
        t = 0.5 * u * h
        value, slope = _log_sinhc(t)
        narrow = log_peak - 0.5 * u.square() + h.log() - h.square() / 24
        log_p = torch.where(is_narrow, narrow + value, log_p)
        if with_gradient:
            by_loc = torch.where(is_narrow, u - 0.5 * h * slope, by_loc)
            narrow = u.square() - 1 - 2 * t * slope + h.square() / 12
            by_log_scale = torch.where(is_narrow, narrow, by_log_scale)
    if not with_gradient:
        return log_p
    return log_p, torch.where(is_right, -by_loc, by_loc) * inverse, by_log_scale


def _product(end, density):
    return torch.where(end.isinf(), 0.0, end * density)


def _may_be_any(mask):
    # To ask a GPU would make the host wait for it.
    return mask.device.type != "cpu" or bool(mask.any())


def _in_left_tail(distance, below, above, inverse):
    # Ends, width and centre of an interval in units of the scale, turned such that the centre is
    # not positive, and whether it was turned. The ends of a narrow one would not tell its width.
    a, b = (distance - below) * inverse, (distance + above) * inverse
    u = (distance + 0.5 * (above - below)) * inverse
    is_right = u > 0
    a, b = torch.where(is_right, -b, a), torch.where(is_right, -a, b)
    return a, b, (below + above) * inverse, torch.where(is_right, -u, u), is_right


def _log_sinhc(t):
    # log(sinh(t) / t) and its derivative.
    square, size = t.square(), t.abs().clamp(min=0.5)
    is_small = t.abs() < 0.5
    value = square * (1 / 6 - square * (1 / 180 - square / 2835))
    large = size - torch.log(2 * size) + torch.log1p(-torch.exp(-2 * size))
    slope = t * (1 / 3 - square * (1 / 45 - square * 2 / 945))
    steep = t.sign() * (1 / torch.tanh(size) - 1 / size)
    return torch.where(is_small, value, large), torch.where(is_small, slope, steep)


def _mills(t):
    # Φ(t) / φ(t) for t < -12, to seven digits.
    inverse = t.square().reciprocal()
    return -(1 - inverse * (1 - 3 * inverse * (1 - 5 * inverse))) / t


class StudentNoise(Noise):
    r"""Student's t distribution with four degrees of freedom: outliers are no surprise.

    Four is the smallest even number with a finite variance; for even numbers the distribution
    function has a closed form, and for four its inverse too (Shaw, "Sampling Student's T
    distribution: use of the inverse cumulative distribution function", 2006).

    .. math:: p(t) = \tfrac38 (1 + t^2 / 4)^{-5/2}
    """

    variance = 2.0
    fisher_information = 5 / 7, 8 / 7

    @staticmethod
    def log_density(t: Tensor) -> Tensor:
        """Return the log density at t, in nats."""
        return math.log(3 / 8) - 2.5 * torch.log1p(t.square() / 4)

    @staticmethod
    def cdf(t: Tensor) -> Tensor:
        """Return the probability of values up to t."""
        # With s the sine of an angle it is (2 + 3 s - s³) / 4. In 1 - |s| no tail rounds to zero.
        size, root = t.abs(), torch.hypot(t, torch.full_like(t, 2.0))
        rest = 4 / (root * (root + size))
        tail = 0.25 * rest.square() * (3 - rest)
        return torch.where(t > 0, 1 - tail, tail)

    @staticmethod
    def from_normal(eps: Tensor) -> Tensor:
        """Return draws, given standard normal ones: an increasing function of these."""
        size = eps.abs() * math.sqrt(0.5)
        p = 0.5 * torch.erfc(size)  # of the tail: the rest would round to one
        cosine = torch.sqrt(4 * p * (1 - p))
        angle = torch.atan2(torch.erf(size), cosine)
        product = torch.sin(2 * angle / 3) * torch.sin(angle / 3)
        return eps.sign() * 2 * torch.sqrt(2 * product / cosine)

    @staticmethod
    def distribution(loc: Tensor, scale: Tensor) -> Distribution:
        """Return the distribution of each cell."""
        return StudentT(4.0, loc, scale, validate_args=False)


class NoiseModel(NamedTuple):
    """A family and what its scale depends on."""

    family: type[Noise]
    """The distribution of a cell."""
    per_row: bool
    """Whether the scale is a function of z; otherwise it is a parameter."""
    tied: bool
    """Whether all columns have one scale."""


NOISE_MODELS = {
    "heteroscedastic": NoiseModel(GaussianNoise, per_row=True, tied=False),
    "homoscedastic": NoiseModel(GaussianNoise, per_row=False, tied=False),
    "isotropic": NoiseModel(GaussianNoise, per_row=False, tied=True),
    "student": NoiseModel(StudentNoise, per_row=True, tied=False),
}
