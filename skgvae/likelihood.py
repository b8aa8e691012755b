"""How good is it, what lies behind a row? Estimates by fixed draws of the latent.

All rows share one set of draws. Then an answer depends on its own row alone, not on how many
rows are asked for or in which order, and a second call gives the same answer.

Where a function takes several models, it answers for their mixture with equal weights; the draws
are shared out between them, and their number is a multiple of that of the models.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import starmap

import torch
from torch import Tensor, nn

from .nn.noise import GaussianNoise
from .objectives import decoded_log_prob, elbo, importance_log_weights

__all__ = [
    "class_log_prob",
    "decoded_components",
    "decoded_covariance",
    "decoded_moments",
    "latent_draws",
    "lower_bound",
    "marginal_log_prob",
    "predictive_log_prob",
]

MAX_SOBOL = 1024
WIDE = 3.0  # how many times as wide as others a wide component of a predictive mixture is
# Numbers in the widest intermediate array: 4 MB of float64. Larger ones leave the cache, and the
# system hands out the memory of each anew, which takes longer than to compute them.
MAX_ELEMENTS = 2**19
_TIMES_ON_GPU = 4


def at_once(n: int, device: str | torch.device) -> int:
    """Return how much a device works on at once, where the CPU works on n: on a GPU calls cost."""
    return n if torch.device(device).type == "cpu" else _TIMES_ON_GPU * n


def latent_draws(
    n_draws: int, latent_features: int, seed: int, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Return standard normal draws that fill the space evenly: scrambled Sobol points.

    Parameters
    ----------
    n_draws : int
        Number of points; a power of two keeps them balanced.
    latent_features : int
        Width of z.
    seed : int
        Seed of the scrambling (Owen, 1998).

    Returns
    -------
    Tensor of shape (n_draws, latent_features)
        Points u of the sequence, mapped by the inverse normal distribution function. Beyond
        1024 columns, where the sequence is no better, they are pseudo-random.
    """
    n_sobol = min(latent_features, MAX_SOBOL)
    engine = torch.quasirandom.SobolEngine(n_sobol, scramble=True, seed=seed)
    uniform = engine.draw(n_draws, dtype=torch.float64)
    # The engine rounds the first point to torch's default dtype. Answers must not depend on that.
    uniform[:1] = uniform[:1].float()
    if n_sobol < latent_features:
        generator = torch.Generator().manual_seed(seed)
        shape = n_draws, latent_features - n_sobol
        rest = torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu")
        uniform = torch.cat([uniform, rest], 1)
    # 0 and 1, to which the first point may be rounded, would be mapped to infinity.
    inside = uniform.clamp(2**-32, 1 - 2**-32)
    return torch.special.ndtri(inside).to(dtype)


@torch.no_grad()
def marginal_log_prob(
    vaes: nn.Module | Sequence[nn.Module],
    v1: Tensor,
    v2: Tensor,
    draws: Tensor,
    known: Tensor | None = None,
) -> Tensor:
    r"""Return the importance-weighted estimate of log p(v2), for v2 = v1.

    .. math:: \log \tfrac1K \sum_k p(v_2 | z_k) \, p(z_k) / q(z_k | v_1)

    In expectation it rises with the number of draws towards log p(v2) and never passes it. An
    estimator's ``score_samples`` has better proposals than q where q is a poor one.

    Parameters
    ----------
    vaes : GaussianVAEModule or sequence of them
        One model or several.
    v1, v2 : Tensor of shape (n_samples, in_features) and (n_samples, n_features)
        Rows as the encoder sees them, and as the decoder gives them.
    draws : Tensor of shape (K, latent_features)
        From :func:`latent_draws`; K is a multiple of the number of models.
    known : Tensor of bool, of shape (n_samples, n_features), optional
        Which cells of v2 are known: the density is that of these. All by default.

    Returns
    -------
    Tensor of shape (n_samples,)
        Nats.
    """
    return _log_mean_exp(
        importance_log_weights(vae, v1, v2, eps, known)
        for vae, own in _share_out(draws, vaes)
        for eps in draws_at_once(widest(vae), v1, own)
    )


@torch.no_grad()
def lower_bound(
    vaes: nn.Module | Sequence[nn.Module],
    v1: Tensor,
    v2: Tensor,
    draws: Tensor,
    known: Tensor | None = None,
) -> Tensor:
    """Return the evidence lower bound of each row; parameters as above.

    Of several models, the logarithm of the mean of their bounds' exponentials: a lower bound
    of their mixture.
    """

    def bound(vae, own):
        total = torch.zeros(len(v1), dtype=v1.dtype, device=v1.device)
        for eps in draws_at_once(widest(vae), v1, own):
            total += len(eps) * elbo(vae, v1, v2, eps, known=known).value
        return total[None] / len(own)

    return _log_mean_exp(starmap(bound, _share_out(draws, vaes)))


@torch.no_grad()
def decoded_moments(
    vaes: nn.Module | Sequence[nn.Module], v1: Tensor, draws: Tensor, wide_share: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the moments of p(v2 | v1) = E[p(v2 | z)] over z ~ q(z | v1) and over the models.

    Parameters
    ----------
    vaes : GaussianVAEModule or sequence of them
        One model or several.
    v1, draws
        As above.
    wide_share : float
        Share of the components, to the nearest one, that are three times as wide as the decoder
        says; they are spread over the draws evenly.

    Returns
    -------
    mean, noise_variance, latent_variance : Tensor of shape (n_samples, out_features)
        The mean of the decoder's means, the mean of its variances, and the variance of its
        means. The variance of v2 is the sum of the last two.
    """
    vaes = _models(vaes)
    mean = noise = square = 0.0
    # Moments about the decoded posterior mean: the square of a large mean would cancel.
    centre = vaes[0].decoder.loc_and_log_scale(vaes[0].encoder.loc_and_log_scale(v1)[0])[0]
    for loc, log_scale in _decoded(vaes, v1, draws, wide_share):
        deviation = loc - centre
        mean = mean + deviation.sum(0)
        square = square + deviation.square().sum(0)
        noise = noise + torch.exp(2 * log_scale).expand_as(loc).sum(0)
    n = len(draws)
    mean, noise = mean / n, vaes[0].decoder.family.variance * noise
    return centre + mean, noise / n, (square / n - mean.square()).clamp(min=0)


@torch.no_grad()
def predictive_log_prob(
    vaes: nn.Module | Sequence[nn.Module],
    v1: Tensor,
    v2: Tensor,
    draws: Tensor,
    wide_share: float = 0.0,
    noise_root: Tensor | None = None,
) -> Tensor:
    r"""Return log p(v2 | v1) = log E[p(v2 | z)] over z ~ q(z | v1) and the models, in nats.

    Parameters
    ----------
    vaes, v1, v2, draws, wide_share
        As above.
    noise_root : Tensor of shape (out_features, out_features), optional
        Lower triangular, a root of the correlation of the noise, which is normal. By default the
        noise of features is independent.
    """
    decoded = _decoded(vaes, v1, draws, wide_share)
    if noise_root is None:
        model = _models(vaes)[0]
        return _log_mean_exp(decoded_log_prob(model, v2, *parameters) for parameters in decoded)
    inverse, log_det = torch.linalg.inv(noise_root), noise_root.diagonal().log().sum()

    def log_prob(loc, log_scale):
        t = (v2 - loc) * torch.exp(-log_scale) @ inverse.mT
        return GaussianNoise.log_density(t).sum(-1) - log_scale.expand_as(loc).sum(-1) - log_det

    return _log_mean_exp(starmap(log_prob, decoded))


@torch.no_grad()
def decoded_components(
    vaes: nn.Module | Sequence[nn.Module], v1: Tensor, draws: Tensor, wide_share: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return the components of p(v2 | v1), a mixture with equal weights.

    Parameters
    ----------
    vaes, v1, draws, wide_share
        As above.

    Returns
    -------
    loc, scale : Tensor of shape (K, n_samples, out_features)
        Of the decoder's noise; for normal noise mean and standard deviation.
    """
    parts = [
        (loc, log_scale.expand_as(loc)) for loc, log_scale in _decoded(vaes, v1, draws, wide_share)
    ]
    loc, log_scale = (torch.cat(part) for part in zip(*parts, strict=True))
    return loc, log_scale.exp()


@torch.no_grad()
def decoded_covariance(
    vaes: nn.Module | Sequence[nn.Module],
    v1: Tensor,
    draws: Tensor,
    wide_share: float = 0.0,
    noise_root: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return mean and covariance of p(v2 | v1).

    The covariance is the mean of the decoder's plus the covariance of its means.

    Parameters
    ----------
    vaes, v1, draws, wide_share, noise_root
        As above.

    Returns
    -------
    mean : Tensor of shape (n_samples, out_features)
    covariance : Tensor of shape (n_samples, out_features, out_features)
    """
    loc, scale = decoded_components(vaes, v1, draws, wide_share)
    mean = loc.mean(0)
    deviation = loc - mean
    latent = torch.einsum("kni,knj->nij", deviation, deviation) / len(loc)
    if noise_root is None:
        noise = torch.diag_embed(scale.square().mean(0))
    else:
        noise = (
            torch.einsum("kni,knj->nij", scale, scale) / len(scale) * (noise_root @ noise_root.mT)
        )
    return mean, latent + _models(vaes)[0].decoder.family.variance * noise


@torch.no_grad()
def class_log_prob(joints: nn.Module | Sequence[nn.Module], v1: Tensor, draws: Tensor) -> Tensor:
    r"""Return log p(c | v1), of shape (n_samples, n_classes), in nats.

    .. math:: p(c | v_1) = E[p(c | v_1, \hat v_2)], \quad
        z \sim q(z | v_1), \; \hat v_2 \sim p(v_2 | z)

    Parameters
    ----------
    joints : GaussianVAEClassifierModule or sequence of them
        Auto-encoder and classifier, one or several.
    v1 : Tensor of shape (n_samples, n_features)
        Rows.
    draws : Tensor of shape (K, latent_features + out_features)
        From :func:`latent_draws`, for z and for the estimate of v2.
    """
    return _log_mean_exp(
        logits.log_softmax(-1)
        for joint, own in _share_out(draws, joints)
        for logits in _classified(joint, v1, own)
    )


@torch.no_grad()
def class_logits(joint: nn.Module, v1: Tensor, draws: Tensor) -> Tensor:
    """Return the logits of one model for each draw, of shape (K, n_samples, n_classes).

    Parameters
    ----------
    joint, v1, draws
        As for :func:`class_log_prob`.
    """
    return torch.cat(list(_classified(joint, v1, draws)))


def _classified(joint, v1, draws):
    loc, log_scale = joint.encoder.loc_and_log_scale(v1)
    for eps in draws_at_once(widest(joint), v1, draws):
        eps_z, eps_target = eps.tensor_split([loc.shape[-1]], -1)
        decoded = joint.decoder.loc_and_log_scale(torch.addcmul(loc, log_scale.exp(), eps_z))
        yield joint.classify(v1, joint.decoder.family.draw(*decoded, eps_target))


def _models(vaes):
    return [vaes] if isinstance(vaes, nn.Module) else vaes


def _share_out(draws, vaes):
    # Parts of one sequence fill the space together.
    vaes = _models(vaes)
    if len(draws) % len(vaes):
        raise ValueError(
            f"{len(draws)} draws cannot be shared out equally between {len(vaes)} models."
        )
    return zip(vaes, draws.split(len(draws) // len(vaes)), strict=True)


def _log_mean_exp(chunks):
    # Of terms that come in chunks of draws (k, *), without holding them all.
    total, n_draws = None, 0
    for log_terms in chunks:
        part = torch.logsumexp(log_terms, 0)
        total = part if total is None else torch.logaddexp(total, part)
        n_draws += len(log_terms)
    return total - math.log(n_draws)


def _decoded(vaes, v1, draws, wide_share):
    # Mean and log scale of p(v2 | z) at the draws of z ~ q(z | v1), in chunks of draws.
    log_factor = log_factors(len(draws), wide_share).to(v1)
    start = 0
    for vae, own in _share_out(draws, vaes):
        m, log_s = vae.encoder.loc_and_log_scale(v1)
        for eps in draws_at_once(widest(vae.decoder), v1, own):
            loc, log_scale = vae.decoder.loc_and_log_scale(torch.addcmul(m, log_s.exp(), eps))
            end = start + len(eps)
            if wide_share:
                log_scale = log_scale.expand_as(loc) + log_factor[start:end, None, None]
            start = end
            yield loc, log_scale


def log_factors(n_draws: int, wide_share: float) -> Tensor:
    """Return what is added to the log scale of each component, of shape (n_draws,)."""
    n_wide = round(wide_share * n_draws)
    before = torch.arange(n_draws + 1, device="cpu") * n_wide // n_draws
    return math.log(WIDE) * before.diff().double()


def widest(module: nn.Module) -> int:
    """Return how many numbers of a row and draw a module holds at once, about."""
    width = max(max(p.shape, default=1) for p in module.parameters())
    prior = getattr(module, "prior", None)
    if hasattr(prior, "n_components"):  # it sees z from each of its components
        width = max(width, prior.n_components * prior.latent_features)
    return width


def draws_at_once(width: int, v1: Tensor, draws: Tensor) -> Iterator[Tensor]:
    """Yield draws with an axis for the rows, as many at once as fit into ``MAX_ELEMENTS``.

    Parameters
    ----------
    width : int
        Numbers of a row and draw, of :func:`widest`.
    v1 : Tensor of shape (n_samples, n_features)
        Rows.
    draws : Tensor of shape (K, latent_features)
        All of them.
    """
    size = max(1, at_once(MAX_ELEMENTS, v1.device) // max(1, len(v1) * width))
    yield from draws.to(v1)[:, None, :].split(size)
