"""p(z).

A prior is a module with four methods: ``forward()`` returns the distribution, ``log_prob(z)``
its density, ``kl(loc, log_scale, z)`` the divergence of a posterior from it for each latent,
``sample(n_samples, generator)`` draws. ``closed_form_kl`` says whether ``kl`` needs no draws;
otherwise the bounds estimate the whole divergence by the densities that they compute anyhow.
It may have a fifth, ``gaussian_components()``, see the function of this name.
``takes_model_axis`` says whether ``log_prob`` and ``kl`` work with one more axis in front of all
tensors, its own too: that of several models. Otherwise these are called one after the other.

A new prior is such a class, made as ``Prior(latent_features, generator=generator)``, and a line in
``PRIORS``; GaussianVAE knows it by that name.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributions import (
    Categorical,
    Distribution,
    MixtureSameFamily,
    MultivariateNormal,
)

from .gaussian import diagonal_normal
from .linear import affine, along, check_positive, draw_

_LOGIT_OF_NOTHING = -1e30  # finite, so that its products with zero are zero


class StandardNormalPrior(nn.Module):
    """p(z) = N(0, I).

    Any module with the same methods can take its place in :class:`GaussianVAEModule`.

    Parameters
    ----------
    latent_features : int
        Width of z.
    generator : torch.Generator, optional
        Not used: there is nothing to draw.

    Examples
    --------
    >>> from skgvae.nn import StandardNormalPrior
    >>> StandardNormalPrior(2)().event_shape
    torch.Size([2])
    """

    takes_model_axis = True
    closed_form_kl = True

    def __init__(self, latent_features: int, generator: torch.Generator | None = None):
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
        Number of components; 8 by default.
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

    takes_model_axis = True
    closed_form_kl = False

    def __init__(
        self, latent_features: int, n_components: int = 8, generator: torch.Generator | None = None
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
        if self.logits.ndim == 2 and torch.is_grad_enabled():  # of several models, in training
            parameters = self.logits, self.means, self.log_scale, self.coefficients
            return _MixtureLogProb.apply(z.flatten(1, -2), *parameters).view(z.shape[:-1])
        log_peaks = self.logits.log_softmax(-1) - self.log_scale.sum(-1)
        log_peaks = log_peaks - 0.5 * self.latent_features * math.log(2 * math.pi)
        distance = self._scaled(z).square().sum(-1)
        return (along(log_peaks, distance) - 0.5 * distance).logsumexp(-1)

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
        z : Tensor of shape (*, latent_features) or (K, n_samples, latent_features)
            Draws from the posterior.

        Returns
        -------
        Tensor of shape (*, latent_features)
            Their sum estimates the divergence.
        """
        has_draws = z.ndim > loc.ndim
        if has_draws:
            loc, log_scale = loc.unsqueeze(-3), log_scale.unsqueeze(-3)
        eps = (z - loc) * torch.exp(-log_scale)
        log_q = -0.5 * (eps.square() + math.log(2 * math.pi)) - log_scale
        chains = self._conditional_log_prob(z).cumsum(-1)
        chains = chains + along(self.logits.log_softmax(-1), chains[..., 0]).unsqueeze(-1)
        log_p = nn.functional.pad(chains.logsumexp(-2), (1, 0)).diff()  # of z_l given those before
        kl = log_q - log_p
        return kl.mean(-3) if has_draws else kl

    @torch.no_grad()
    def gaussian_components(self) -> GaussianComponents:
        """Return the components."""
        return GaussianComponents(self.logits, self.means, self._precision_factor())

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
        scaled = self._scaled(z)
        log_scale = along(self.log_scale, scaled, n_axes=2)
        return -0.5 * (scaled.square() + math.log(2 * math.pi)) - log_scale

    def _scaled(self, z):
        # z in the units of each component, where its density is that of N(0, I)
        factor, offset = self._factor_and_offset()
        return affine(z, factor, -offset).unflatten(-1, (-1, self.latent_features))

    def _factor_and_offset(self):
        # All components in one matrix: ([M,] C latent, latent), and what is subtracted then.
        factor = self._precision_factor()
        offset = (factor @ self.means[..., None]).flatten(-3)
        return factor.flatten(-3, -2), offset


class GaussianComponents(NamedTuple):
    """Gaussians that together are like a prior: draws of z may be proposed by them."""

    log_weights: Tensor
    """Up to a constant, of shape (C,)."""
    means: Tensor
    """Of shape (C, latent_features)."""
    factors: Tensor
    """F, for the precision FᵀF, triangular, of shape (C, latent_features, latent_features)."""

    @classmethod
    def standard(cls, like: Tensor) -> GaussianComponents:
        """Return N(0, I) alone, for z like a tensor of shape (*, latent_features)."""
        mean = like.new_zeros(1, like.shape[-1])
        return cls(mean[:, 0], mean, _identity(mean)[None])

    def nearest(self, z: Tensor) -> Tensor:
        """Return the index of the component that each z, of shape (n, latents), most likely is of.

        Parameters
        ----------
        z : Tensor of shape (n_samples, latent_features)
            Points.
        """
        offset = (self.factors @ self.means[..., None]).flatten()
        scaled = affine(z, self.factors.flatten(0, 1), -offset).unflatten(-1, self.means.shape)
        log_peaks = self.log_weights + self.factors.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return (log_peaks - 0.5 * scaled.square().sum(-1)).argmax(-1)


def gaussian_components(prior: nn.Module, like: Tensor) -> GaussianComponents:
    """Return Gaussians that together are like the prior: by the prior itself, or N(0, I).

    Draws of z are proposed by them, and weighed by the prior: they need not be exact.

    Parameters
    ----------
    prior : nn.Module
        Of which ``gaussian_components()`` is asked, where it has that method.
    like : Tensor of shape (*, latent_features)
        Of the dtype and on the device of z.
    """
    own = getattr(prior, "gaussian_components", None)
    return GaussianComponents.standard(like) if own is None else own()


PRIORS = {"standard": StandardNormalPrior, "mixture": MixturePrior}

# How many numbers the cache of a core holds. A larger array is computed in such parts, and again
# for the gradient: that takes less time than to write it to new memory.
_IN_CACHE = 2**18


class _MixtureLogProb(torch.autograd.Function):
    """log p(z) of mixtures of Gaussians of M models, with its gradient written out.

    With u = F z - f for each component, f = F m and F = diag(1/s) (I - b),

        log p = logsumexp(log w - sum log s - |u|² / 2) - const, d log p / du = -share u

    Autograd would keep u, its square and their gradients, of (M, n, C, latent) each.
    """

    @staticmethod
    def forward(ctx, z, logits, means, log_scale, coefficients):
        n_models, n_components, n_latents = means.shape
        inverse = torch.exp(-log_scale).unsqueeze(-1)
        factor = coefficients.tril(-1).neg_()
        factor.diagonal(dim1=-2, dim2=-1).fill_(1.0)
        factor = factor.mul_(inverse).flatten(1, 2)
        offset = torch.bmm(factor.view(-1, n_latents, n_latents), means.reshape(-1, n_latents, 1))
        offset = offset.view(n_models, -1)
        log_peaks = logits.log_softmax(-1).sub_(log_scale.sum(-1))
        log_peaks.sub_(0.5 * n_latents * math.log(2 * math.pi))
        log_joint = z.new_empty(n_models, z.shape[1], n_components)
        for rows in _parts(z, factor):
            u = _scaled(z[:, rows], factor, offset, n_components)
            square = torch.linalg.vector_norm(u, dim=-1).square_()  # needs no array of squares
            torch.add(log_peaks.unsqueeze(1), square, alpha=-0.5, out=log_joint[:, rows])
        log_prob = log_joint.logsumexp(-1)
        ctx.save_for_backward(z, factor, offset, log_joint, log_prob, logits, means, inverse)
        return log_prob

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        z, factor, offset, log_joint, log_prob, logits, means, inverse = ctx.saved_tensors
        share = torch.sub(log_joint, log_prob.unsqueeze(-1)).exp_()
        g_share = share.mul_(g.unsqueeze(-1))  # (M, n, C)
        g_z, g_factor = torch.empty_like(z), torch.zeros_like(factor)
        g_offset = torch.zeros_like(offset)
        for rows in _parts(z, factor):
            u = _scaled(z[:, rows], factor, offset, g_share.shape[-1])
            g_u = u.mul_(g_share[:, rows].unsqueeze(-1)).flatten(-2).neg_()
            g_offset -= g_u.sum(1)
            g_factor.baddbmm_(g_u.mT, z[:, rows])
            g_z[:, rows] = torch.bmm(g_u, factor)
        # From the factor and the offset to the parameters.
        factor, g_offset = factor.unflatten(1, means.shape[1:]), g_offset.view_as(means)
        g_factor = g_factor.view_as(factor)
        g_factor = torch.addcmul(g_factor, g_offset.unsqueeze(-1), means.unsqueeze(-2))
        g_peaks = g_share.sum(1)
        g_logits = g_peaks - logits.softmax(-1) * g_peaks.sum(-1, keepdim=True)
        g_means = (factor.mT @ g_offset.unsqueeze(-1)).squeeze(-1)
        g_log_scale = -(g_factor * factor).sum(-1) - g_peaks.unsqueeze(-1)
        g_coefficients = (g_factor * inverse).tril_(-1).neg_()
        return g_z, g_logits, g_means, g_log_scale, g_coefficients


def _scaled(z, factor, offset, n_components):
    # z in the units of each component: (M, n, C, latent)
    scaled = torch.baddbmm(offset.unsqueeze(1), z, factor.mT, beta=-1)
    return scaled.unflatten(-1, (n_components, -1))


def _parts(z, factor):
    size = z.shape[0] * factor.shape[1]  # of a row
    step = z.shape[1]
    if z.device.type == "cpu":
        step = max(1, _IN_CACHE * torch.get_num_threads() // max(size, 1))
    return [slice(start, start + step) for start in range(0, z.shape[1], max(step, 1))]


def with_equal_priors(modules: Sequence[nn.Module]) -> list[nn.Module]:
    """Return the modules; of fewer Gaussians in the prior a copy, with some of weight zero.

    Parameters
    ----------
    modules : sequence of GaussianVAEModule or GaussianVAEClassifierModule
        They differ at most in the number of Gaussians.
    """
    numbers = [getattr(module.prior, "n_components", 0) for module in modules]
    equal = []
    for module, n in zip(modules, numbers, strict=True):
        if n < max(numbers):
            module = copy.deepcopy(module)
            vae = getattr(module, "vae", module)
            vae.prior = vae.prior.padded(max(numbers))
        equal.append(module)
    return equal


def _identity(like):
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
