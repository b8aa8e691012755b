"""p(z)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from .gaussian import diagonal_normal


class StandardNormalPrior(nn.Module):
    """p(z) = N(0, I).

    A prior is a module with three methods: ``forward()`` returns the distribution,
    ``log_prob(z)`` its density, ``kl(loc, log_scale, z)`` the divergence of a posterior from
    it. Any module that has them can take its place in :class:`GaussianVAEModule`.

    Parameters
    ----------
    latent_features : int
        Width of z.

    Examples
    --------
    >>> from skgvae.nn import StandardNormalPrior
    >>> StandardNormalPrior(2)().event_shape
    torch.Size([2])
    """

    def __init__(self, latent_features: int):
        super().__init__()
        self.latent_features = latent_features
        self.register_buffer("zeros", torch.zeros(latent_features), persistent=False)

    def forward(self) -> Distribution:
        """Return N(0, I)."""
        return diagonal_normal(self.zeros, self.zeros)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log p(z) in nats, of shape (*), for z of shape (*, latent_features)."""
        return -0.5 * (z.square().sum(-1) + self.latent_features * math.log(2 * math.pi))

    def kl(self, loc: Tensor, log_scale: Tensor, z: Tensor | None = None) -> Tensor:
        """Return KL(N(loc, diag exp(log_scale)²) ‖ p(z)) per latent, in nats.

        Closed form: ½ (loc² + scale² − 1) − log_scale.

        Parameters
        ----------
        loc, log_scale : Tensor of shape (*, latent_features)
            The posterior.
        z : Tensor, optional
            Draws from the posterior: not needed here, but by priors without a closed form.

        Returns
        -------
        Tensor of shape (*, latent_features)
            Their sum is the divergence.
        """
        return 0.5 * (loc.square() + torch.exp(2 * log_scale) - 1) - log_scale

    def sample(self, n_samples: int, generator: torch.Generator | None = None) -> Tensor:
        """Return draws of z, of shape (n_samples, latent_features)."""
        return torch.randn(
            n_samples,
            self.latent_features,
            generator=generator,
            dtype=self.zeros.dtype,
            device=self.zeros.device,
        )
