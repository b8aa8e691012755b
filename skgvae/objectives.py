"""What is maximised? Bounds on the log-likelihood, as functions of tensors.

All are in nats and summed, never averaged, over features and latents: the balance between
reconstruction and KL must not depend on how many columns there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
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
    "predictive_bound",
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
    d = max(x.shape[-1], loc.shape[-1], log_scale.shape[-1])
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

        L_K = \log \tfrac1K \sum_k p(v_2 | z_k) \, p(z_k) / q(z_k | v_1)

    which for v2 = v1 rises with K towards log p(v2). A weight w above one returns
    :math:`L_K - (w - 1) \, KL(q(z | v_1) \| p(z))`, one below it
    :math:`w L_K + (1 - w) E \log p(v_2 | z)`. For one draw both are, in expectation, the
    evidence lower bound with weight w; for several no divergence is ever rewarded, neither
    by a negative weight nor by the luckiest of the draws.

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
    value, reconstruction = log_mean_exp(log_lik + log_ratio), -log_lik.mean(0)
    if kl_weight >= 1:
        value = value - (kl_weight - 1) * kl
    else:
        value = kl_weight * value - (1 - kl_weight) * reconstruction
    return Bound(value, reconstruction, kl)


def predictive_bound(
    vae: nn.Module,
    v1: Tensor,
    v2: Tensor,
    eps: Tensor,
    kl_weight: float = 1.0,
    mean_power: float = 0.0,
) -> Bound:
    r"""Return the predictive log density of each row less the weighted KL.

    .. math:: \log \tfrac1K \sum_k p(v_2 | z_k) - w \, KL(q(z | v_1) \| p(z))

    This trains p(v2 | v1) = E[p(v2 | z)] over q(z | v1). For v2 ≠ v1 it is a variational
    information bottleneck: from some w < 1 on, to ignore v1 is optimal, so w must be small.

    Parameters
    ----------
    vae, v1, v2, eps, kl_weight
        As for :func:`elbo`.
    mean_power : float
        The gradient with respect to the decoder's mean is multiplied by
        :math:`\sigma^{2 b}`, relative to its average, with b = ``mean_power``. Without it
        (b = 0) rows with large σ hardly train the mean, and a poor mean keeps them large.
        The value is the same for every b.

    References
    ----------
    Alemi, Fischer, Dillon & Murphy, "Deep Variational Information Bottleneck", 2017,
    arXiv:1612.00410. Seitzer, Tavakoli, Antic & Martius, "On the Pitfalls of Heteroscedastic
    Uncertainty Estimation", 2022, arXiv:2203.09168.
    """
    loc, log_scale, z = _draw(vae, v1, eps)
    decoded, decoded_log_scale = vae.decoder.loc_and_log_scale(z)
    if mean_power:
        factor = torch.exp(2 * mean_power * decoded_log_scale.detach())
        centre = decoded.detach()
        decoded = centre + factor / factor.mean() * (decoded - centre)
    log_lik = gaussian_log_prob(v2, decoded, decoded_log_scale)
    kl = vae.prior.kl(loc, log_scale, z).sum(-1)
    return Bound(log_mean_exp(log_lik) - kl_weight * kl, -log_lik.mean(0), kl)


class NegativeBound(nn.Module):
    """The training loss: minus a bound, averaged over rows.

    Parameters
    ----------
    bound : callable
        :func:`elbo`, :func:`importance_weighted_bound` or :func:`predictive_bound`.
    kl_weight : float
        Weight of the KL term.
    n_draws : int
        Draws of z for each row in training.
    **params
        Further parameters of the bound.
    """

    def __init__(
        self, bound: Callable = elbo, kl_weight: float = 1.0, n_draws: int = 1, **params: float
    ):
        super().__init__()
        self.bound = bound
        self.kl_weight = kl_weight
        self.n_draws = n_draws
        self.params = params

    def forward(
        self, vae: nn.Module, v1: Tensor, v2: Tensor, eps: Tensor, weight: Tensor | None = None
    ) -> Bound:
        """Return loss, reconstruction and KL as scalars.

        Parameters
        ----------
        vae, v1, v2, eps
            As for :func:`elbo`.
        weight : Tensor of shape (*), optional
            Weight of each row, with mean one over the data.
        """
        terms = self.bound(vae, v1, v2, eps, self.kl_weight, **self.params)
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
