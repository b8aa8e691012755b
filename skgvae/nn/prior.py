"""p(z)."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributions import (
    Categorical,
    Distribution,
    MixtureSameFamily,
    MultivariateNormal,
)

from .gaussian import check_positive, diagonal_normal, draw_

_LOGIT_OF_NOTHING = -1e30  # finite, so that its products with zero are zero


class StandardNormalPrior(nn.Module):
    """p(z) = N(0, I).

    A prior is a module with four methods: ``forward()`` returns the distribution,
    ``log_prob(z)`` its density, ``kl(loc, log_scale, z)`` the divergence of a posterior from
    it, ``sample(n_samples, generator)`` draws. Any module that has them can take its place in
    :class:`GaussianVAEModule`.

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
        check_positive(latent_features=latent_features)
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


class MixturePrior(nn.Module):
    r"""p(z) is a mixture of Gaussians with full covariances, all of them parameters.

    .. math::

        p(z) = \sum_c w_c \prod_l N(z_l; \; \mu_{cl} +
        \textstyle\sum_{m<l} b_{clm} (z_m - \mu_{cm}), \; s_{cl}^2)

    Each component is written as a chain of regressions: any coefficients b and any scales
    s > 0 give a covariance, and every covariance has one such form. Its precision has the
    Cholesky factor diag(1/s) (I - b). At the start all components are N(0, I) but for small
    shifts of the means, without which they would stay alike.

    Parameters
    ----------
    latent_features : int
        Width of z.
    n_components : int
        Number of components.
    generator : torch.Generator, optional
        Source of the initial means; torch's global generator by default.

    Examples
    --------
    >>> import torch
    >>> from skgvae.nn import MixturePrior
    >>> prior = MixturePrior(2, n_components=3)
    >>> prior.log_prob(torch.zeros(5, 2)).shape
    torch.Size([5])
    """

    def __init__(
        self, latent_features: int, n_components: int, generator: torch.Generator | None = None
    ):
        super().__init__()
        check_positive(latent_features=latent_features, n_components=n_components)
        self.latent_features, self.n_components = latent_features, n_components
        shape = n_components, latent_features
        self.logits = nn.Parameter(torch.zeros(n_components))
        self.means = nn.Parameter(torch.zeros(shape))
        self.log_scale = nn.Parameter(torch.zeros(shape))
        # Only what lies below the diagonal counts.
        self.coefficients = nn.Parameter(torch.zeros(*shape, latent_features))
        if n_components > 1:
            draw_(self.means, partial(nn.init.normal_, std=0.1), generator)

    def forward(self) -> Distribution:
        """Return the mixture."""
        identity = _identity(self.means)
        scale_tril = torch.linalg.solve_triangular(
            self._precision_factor(), identity.expand_as(self.coefficients), upper=False
        )
        components = MultivariateNormal(self.means, scale_tril=scale_tril, validate_args=False)
        weights = Categorical(logits=self.logits, validate_args=False)
        return MixtureSameFamily(weights, components, validate_args=False)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log p(z) in nats, of shape (*), for z of shape (*, latent_features)."""
        log_peaks = self.logits.log_softmax(-1) - self.log_scale.sum(-1)
        log_peaks = log_peaks - 0.5 * self.latent_features * math.log(2 * math.pi)
        return (log_peaks - 0.5 * self._scaled(z).square().sum(-1)).logsumexp(-1)

    def kl(self, loc: Tensor, log_scale: Tensor, z: Tensor) -> Tensor:
        r"""Return an estimate of KL(N(loc, diag exp(log_scale)²) ‖ p(z)) per latent, in nats.

        There is no closed form. By the chain rule, averaged over the draws,

        .. math:: \log q(z) - \log p(z) = \sum_l [\log q(z_l) - \log p(z_l | z_1 \dots z_{l-1})]

        In expectation no term is negative, and one that the posterior leaves at what the
        latents before it predict is zero, as it is for every single draw.

        Parameters
        ----------
        loc, log_scale : Tensor of shape (*, latent_features)
            The posterior.
        z : Tensor of shape ([K,] *, latent_features)
            Draws from the posterior.

        Returns
        -------
        Tensor of shape (*, latent_features)
            Their sum estimates the divergence.
        """
        eps = (z - loc) * torch.exp(-log_scale)
        log_q = -0.5 * (eps.square() + math.log(2 * math.pi)) - log_scale
        chains = self._conditional_log_prob(z).cumsum(-1) + self.logits.log_softmax(-1)[:, None]
        log_p = nn.functional.pad(chains.logsumexp(-2), (1, 0)).diff()  # of z_l given those before
        kl = log_q - log_p
        return kl.mean(0) if z.ndim > loc.ndim else kl

    @torch.no_grad()
    def sample(self, n_samples: int, generator: torch.Generator | None = None) -> Tensor:
        """Return draws of z, of shape (n_samples, latent_features)."""
        n_drawn = max(n_samples, 1)  # torch.multinomial refuses to draw none
        component = torch.multinomial(
            self.logits.softmax(-1), n_drawn, replacement=True, generator=generator
        )[:n_samples]
        shape, like = (self.latent_features, n_samples), self.means
        eps = torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)
        factor = self._precision_factor()
        z = torch.empty_like(eps)
        for c in range(self.n_components):
            own = component == c
            z[:, own] = torch.linalg.solve_triangular(factor[c], eps[:, own], upper=False)
        return self.means[component] + z.T

    @torch.no_grad()
    def set_(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        """Become a given mixture.

        Parameters
        ----------
        weights : Tensor of shape (n_components,)
            Positive weights.
        means : Tensor of shape (n_components, latent_features)
            Means.
        covariances : Tensor of shape (n_components, latent_features, latent_features)
            Positive definite covariances.
        """
        cholesky = torch.linalg.cholesky(covariances)
        scale = cholesky.diagonal(dim1=-2, dim2=-1)
        identity = _identity(cholesky).expand_as(cholesky)
        unit = cholesky / scale[:, None, :]  # (I - b)^-1
        unit = torch.linalg.solve_triangular(unit, identity, upper=False, unitriangular=True)
        self.logits.copy_(weights.log())
        self.means.copy_(means)
        self.log_scale.copy_(scale.log())
        self.coefficients.copy_(-unit.tril(-1))

    @torch.no_grad()
    def padded(self, n_components: int) -> MixturePrior:
        """Return the same mixture with components added that have weight zero, and no gradient.

        Parameters
        ----------
        n_components : int
            Number of components, as many as there are or more.
        """
        generator = torch.Generator()  # not the global one, for numbers that are not used
        with self.means.device:
            padded = MixturePrior(self.latent_features, n_components, generator).to(self.means)
        padded.means.zero_()
        padded.logits.fill_(_LOGIT_OF_NOTHING)
        for name, own in self.named_parameters():
            padded.get_parameter(name)[: self.n_components] = own
        return padded.train(self.training)

    def extra_repr(self) -> str:
        """Return what repr shows."""
        return f"{self.latent_features}, n_components={self.n_components}"

    def _precision_factor(self):
        # diag(1/s) (I - b), lower triangular: (C, latent, latent)
        return (_identity(self.means) - self.coefficients.tril(-1)) * torch.exp(-self.log_scale)[
            ..., None
        ]

    def _conditional_log_prob(self, z):
        # log p(z_l | z_1 ... z_(l-1), component c): (*, C, latent)
        return -0.5 * (self._scaled(z).square() + math.log(2 * math.pi)) - self.log_scale

    def _scaled(self, z):
        # z in the units of each component, where its density is that of N(0, I)
        factor = self._precision_factor()
        offset = (factor @ self.means[..., None]).flatten()
        # All components in one matrix product.
        scaled = nn.functional.linear(z, factor.flatten(0, 1), -offset)
        return scaled.unflatten(-1, (self.n_components, self.latent_features))


def _identity(like):
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
