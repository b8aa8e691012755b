"""What is maximised? Bounds on the log-likelihood, as functions of tensors.

All are in nats and summed, never averaged, over features and latents: the balance between
reconstruction and KL must not depend on how many columns there are.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = [
    "Bound",
    "NegativeBound",
    "elbo",
    "gaussian_log_prob",
    "importance_log_weights",
    "importance_weighted_bound",
    "log_mean_exp",
]


def gaussian_log_prob(x: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    r"""Return the log density of a diagonal Gaussian, summed over the last axis.

    .. math:: -\tfrac12 \sum_j [\log 2\pi + 2 \log\sigma_j + (x_j - \mu_j)^2 / \sigma_j^2]

    Parameters
    ----------
    x, loc, log_scale : Tensor of shape (*, d)
        Point, mean and log standard deviation; they broadcast.

    Returns
    -------
    Tensor of shape (*)
        Nats.

    Examples
    --------
    >>> import torch
    >>> from skgvae.objectives import gaussian_log_prob
    >>> gaussian_log_prob(torch.zeros(1), torch.zeros(1), torch.zeros(1))
    tensor(-0.9189)
    """
    # log σ may be shared between rows: sum it before it broadcasts, not after.
    d = loc.shape[-1]
    scaled = (x - loc) * torch.exp(-log_scale)
    log_det = log_scale.sum(-1) if log_scale.shape[-1] == d else d * log_scale.squeeze(-1)
    return -0.5 * scaled.square().sum(-1) - log_det - 0.5 * d * math.log(2 * math.pi)


def log_mean_exp(log_w: Tensor, dim: int = 0) -> Tensor:
    """Return log of the mean of exp(log_w) along an axis, without overflow."""
    return torch.logsumexp(log_w, dim) - math.log(log_w.shape[dim])


class Bound(NamedTuple):
    """A bound on log p of each row and its two parts, in nats, each of shape (*)."""

    value: Tensor
    """The bound: −reconstruction − kl_weight · kl for one draw, more for several."""
    reconstruction: Tensor
    """−E log p(v2 | z), estimated by the draws."""
    kl: Tensor
    """KL(q(z | v1) ‖ p(z))."""


def importance_log_weights(vae: nn.Module, v1: Tensor, v2: Tensor, eps: Tensor) -> Tensor:
    r"""Return :math:`\log p(v_2 | z_k) + \log p(z_k) - \log q(z_k | v_1)` for each draw.

    Parameters
    ----------
    vae, v1, v2, eps
        As for :func:`elbo`.

    Returns
    -------
    Tensor of shape (K, *)
        Nats. For v2 = v1 the mean of their exponentials estimates p(v2).
    """
    _, log_scale, z = _draw(vae, v1, eps)
    log_lik = gaussian_log_prob(v2, *vae.decoder.loc_and_log_scale(z))
    return log_lik + vae.prior.log_prob(z) - _log_posterior(eps, log_scale)


def elbo(vae: nn.Module, v1: Tensor, v2: Tensor, eps: Tensor, kl_weight: float = 1.0) -> Bound:
    r"""Return the evidence lower bound of each row, its KL in closed form where there is one.

    .. math:: E_{q(z | v_1)} \log p(v_2 | z) - w \, KL(q(z | v_1) \| p(z))

    Parameters
    ----------
    vae : GaussianVAEModule
        Anything with ``encoder``, ``decoder`` and ``prior`` like its.
    v1 : Tensor of shape (*, in_features)
        Input.
    v2 : Tensor of shape (*, out_features)
        Target.
    eps : Tensor of shape (K, *, latent_features)
        Standard normal draws, z = m(v1) + s(v1) eps; an axis of length one is shared by rows.
    kl_weight : float
        Weight w of the KL term.

    References
    ----------
    Kingma & Welling, "Auto-Encoding Variational Bayes", 2013, arXiv:1312.6114.
    """
    loc, log_scale, z = _draw(vae, v1, eps)
    log_lik = gaussian_log_prob(v2, *vae.decoder.loc_and_log_scale(z))  # (K, *)
    reconstruction = -log_lik.mean(0)
    kl = vae.prior.kl(loc, log_scale, z).sum(-1)
    return Bound(-reconstruction - kl_weight * kl, reconstruction, kl)


def importance_weighted_bound(
    vae: nn.Module, v1: Tensor, v2: Tensor, eps: Tensor, kl_weight: float = 1.0
) -> Bound:
    r"""Return the importance-weighted bound of each row.

    .. math::

        \log \tfrac1K \sum_k p(v_2 | z_k) \, p(z_k) / q(z_k | v_1)
        - (w - 1) \, KL(q(z | v_1) \| p(z))

    For v2 = v1 and w = 1 it rises with K towards log p(v2). For K = 1 its expectation is the
    evidence lower bound with weight w. (To raise the ratios themselves to the power w would
    reward the luckiest draw in place of a small divergence.)

    Parameters
    ----------
    vae, v1, v2, eps, kl_weight
        As for :func:`elbo`.

    References
    ----------
    Burda, Grosse & Salakhutdinov, "Importance Weighted Autoencoders", 2015, arXiv:1509.00519.
    """
    loc, log_scale, z = _draw(vae, v1, eps)
    log_lik = gaussian_log_prob(v2, *vae.decoder.loc_and_log_scale(z))
    log_ratio = vae.prior.log_prob(z) - _log_posterior(eps, log_scale)
    kl = vae.prior.kl(loc, log_scale, z).sum(-1)
    value = log_mean_exp(log_lik + log_ratio) - (kl_weight - 1) * kl
    return Bound(value, -log_lik.mean(0), kl)


class NegativeBound(nn.Module):
    """The training loss: minus a bound, averaged over rows.

    Parameters
    ----------
    kl_weight : float
        Weight of the KL term.
    n_draws : int
        Draws of z for each row: one trains the evidence lower bound, more the
        importance-weighted one.
    """

    def __init__(self, kl_weight: float = 1.0, n_draws: int = 1):
        super().__init__()
        self.kl_weight = kl_weight
        self.n_draws = n_draws

    def forward(
        self, vae: nn.Module, v1: Tensor, v2: Tensor, eps: Tensor, weight: Tensor | None = None
    ) -> Bound:
        """Return loss, reconstruction and KL as scalars.

        Parameters
        ----------
        vae, v1, v2, eps
            As for :func:`elbo`; the number of draws decides which bound is taken.
        weight : Tensor of shape (*), optional
            Weight of each row, with mean one over the data.
        """
        bound = elbo if len(eps) == 1 else importance_weighted_bound
        terms = bound(vae, v1, v2, eps, self.kl_weight)
        if weight is not None:
            terms = [term * weight for term in terms]
        value, reconstruction, kl = (term.mean() for term in terms)
        return Bound(-value, reconstruction, kl)


def _draw(vae, v1, eps):
    loc, log_scale = vae.encoder.loc_and_log_scale(v1)
    return loc, log_scale, torch.addcmul(loc, log_scale.exp(), eps)  # z: (K, *, latent)


def _log_posterior(eps, log_scale):
    # log q(z | v1) at z = m + s eps: the density of eps less log |dz / d eps|.
    log_eps = -0.5 * eps.square().sum(-1) - 0.5 * eps.shape[-1] * math.log(2 * math.pi)
    return log_eps - log_scale.sum(-1)
