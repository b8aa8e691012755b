"""The geometry of the latent space: how much a step of z changes what is decoded."""

from __future__ import annotations

import warnings
from functools import cache
from threading import Lock

import torch
from torch import Tensor, nn
from torch.func import jacfwd, vmap

# torch counts the levels of forward mode for the whole process, not for each thread.
FORWARD_MODE = Lock()


def pullback_metric(decoder: nn.Module, z: Tensor) -> Tensor:
    r"""Return the Fisher information of p(v2 | z) about z.

    .. math:: G(z) = i_\mu J_\mu^T \Sigma^{-1} J_\mu
        + i_\sigma J_{\log\sigma}^T J_{\log\sigma}, \quad
        \Sigma = \operatorname{diag} \sigma^2(z),

    with the Jacobians J of the decoder at z and the information of the family of noise about its
    location and the logarithm of its scale (1 and 2 for the normal distribution). It is the
    metric of the distributions of a row, pulled back to the latent space. For a small step dz the
    divergence of p(v2 | z + dz) from p(v2 | z) is :math:`\tfrac12 dz^T G(z) \, dz` nats. The
    metric does not depend on the units of v2.

    Parameters
    ----------
    decoder : GaussianMLP
        p(v2 | z), or any module with ``loc_and_log_scale(z)`` that returns μ and log σ, and the
        ``family`` of its noise.
    z : Tensor of shape (n_samples, latent_features)
        Points of the latent space.

    Returns
    -------
    Tensor of shape (n_samples, latent_features, latent_features)
        G at each point, symmetric and positive semi-definite.

    References
    ----------
    Arvanitidis, Hansen & Hauberg, "Latent Space Oddity: on the Curvature of Deep Generative
    Models", 2018, arXiv:1710.11379; Arvanitidis, González-Duque, Pouplin, Kalatzis & Hauberg,
    "Pulling back information geometry", 2022, arXiv:2106.05367.

    Examples
    --------
    >>> import torch
    >>> from skgvae.nn import GaussianMLP, pullback_metric
    >>> decoder = GaussianMLP(2, 5, hidden_features=(16,))
    >>> pullback_metric(decoder, torch.zeros(3, 2)).shape
    torch.Size([3, 2, 2])
    """

    def parameters(point):
        loc, log_scale = decoder.loc_and_log_scale(point)
        log_scale = log_scale.expand_as(loc)
        return (loc, log_scale), (loc, log_scale)

    def metric(point):
        (by_loc, by_log_scale), (loc, log_scale) = jacfwd(parameters, has_aux=True)(point)
        roots = decoder.family.information_roots(loc, log_scale, by_loc.mT, by_log_scale.mT)
        return sum(root @ root.mT for root in roots)

    with FORWARD_MODE:
        _load_forward_mode()
        return vmap(metric)(z)


@cache
def _load_forward_mode() -> None:
    """Make torch load its rules for forward mode, without its DeprecationWarning.

    When a process first differentiates in forward mode, torch calls ``torch.jit.script`` and
    warns that it is deprecated. Who asks for a metric can do nothing about that. Warning filters
    belong to all threads, so they are changed for this one call only.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script` is", DeprecationWarning)
        jacfwd(torch.sin)(torch.zeros(()))
