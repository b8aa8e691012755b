"""What is the noise of a cell? The families of p(v2 | z), and how their scale depends on z.

A family is the distribution of noise with location zero and scale one, as functions of tensors;
a cell of v2 is ``μ(z) + σ(z) · noise``. All else (sums over cells, weights, mixtures over z) is
written once for all families. A new one is a class like :class:`StudentNoise` and a line in
``NOISE_MODELS``, and the estimators know it by that name.
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
        s = (t / 2) * torch.rsqrt(1 + t.square() / 4)  # in (-1, 1), the sine of an angle
        s = torch.where(t.isinf(), t.sign(), s)
        return 0.5 + 0.25 * s * (3 - s.square())

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
