"""How likely is a row? By as many draws of its latents as it takes."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ._proposals import Proposal
from .likelihood import MAX_ELEMENTS, at_once, draws_at_once, widest
from .objectives import importance_log_weights

TOLERANCE = 0.05  # nats: the standard error up to which an estimate is settled
ROUNDS = 1, 4, 16  # draws of each model in all, in first rounds
SCREENING = 8  # a first round has so many times the draws from q alone that come before it
# Of a Cauchy distribution in the density, ten times as wide as the training rows. Far from all of
# them, where networks say nothing that is to be trusted, it falls with the distance.
BACKGROUND_SHARE = 1e-50
BACKGROUND_SCALE = 10.0


class Estimate(NamedTuple):
    """An estimate for each row, in nats."""

    log_prob: Tensor
    std: Tensor
    """Its standard error."""


@torch.no_grad()
def log_density(
    vaes: Sequence[nn.Module],
    v1: Tensor,
    v2: Tensor,
    draws: Sequence[Tensor],
    n_first: int,
    known: Tensor | None = None,
    tolerance: float | None = None,
    has_background: bool = True,
) -> Estimate:
    r"""Return log p(v2) under the mixture of several models, for v2 = v1, by importance sampling.

    .. math:: \log \tfrac1K \sum_k p(v_2 | z_k) \, p(z_k) / r(z_k), \quad z_k \sim r

    A few draws from r = q(z | v1) settle a complete row whose weights are nearly equal. For the
    others a quarter of r is q, and the rest Gaussians at modes of p(z | v2), with the curvature
    there (Laplace's approximation); of each model that matters a row has the more draws, the
    longer its estimate takes to settle. What a row gets depends on itself alone.

    Parameters
    ----------
    vaes : sequence of GaussianVAEModule
        Models with equal weights.
    v1, v2 : Tensor of shape (n_samples, in_features) and (n_samples, n_features)
        Rows as the encoder sees them, and as the decoder gives them.
    draws : sequence of Tensor of shape (K, latent_features)
        For each model some of its own, of :func:`~skgvae.likelihood.latent_draws`: all that a
        row can have, 16 times ``n_first``.
    n_first : int
        Draws of each model in the first round, at least two.
    known : Tensor of bool, of shape (n_samples, n_features), optional
        Which cells of v2 are known: the density is that of these. All by default.
    tolerance : float, optional
        The standard error in nats up to which an estimate is settled, 0.05 by default.
    has_background : bool
        Whether the Cauchy distribution is part of the density.

    References
    ----------
    Hesterberg, "Weighted Average Importance Sampling and Defensive Mixture Distributions",
    Technometrics 37(2), 1995.
    """
    tolerance = TOLERANCE if tolerance is None else tolerance
    draws, width = [own.to(v2) for own in draws], widest(vaes[0])
    log_volume = vaes[0].decoder.family.log_volume(v2)
    log_volume = (log_volume if known is None else log_volume.where(known, 0.0)).sum(-1)
    background = torch.full_like(log_volume, -math.inf)
    if has_background:
        background = _log_background(v2, known) + log_volume + math.log(BACKGROUND_SHARE)
    sums = Sums(len(vaes), v2)
    if known is None:
        for m, vae in enumerate(vaes):
            screening = draws[m][: max(2, n_first // SCREENING)]
            for eps in draws_at_once(width, v1, screening):
                sums.add(m, ..., importance_log_weights(vae, v1, v2, eps))
        # By each model: one whose draws have missed the row would seem to matter little.
        is_settled = sums.variances().amax(0) <= tolerance**2
        found = sums.estimate(background)
    else:  # many posteriors are unlike q, which would not show it
        found = Estimate(torch.zeros_like(background), torch.zeros_like(background))
        is_settled = ~known.any(-1)  # of no cells the density is one
    if is_settled.all():
        return found
    unsettled = places_of(~is_settled)
    for rows in unsettled.split(rows_at_once(vaes, width, known)):
        parts = (None if a is None else a[rows] for a in (v1, v2, known))
        refined = _refined(vaes, *parts, width, draws, n_first, background[rows], tolerance)
        for whole, part in zip(found, refined, strict=True):
            whole[rows] = part
    return found


class _WidenedDecoder(nn.Module):
    def __init__(self, decoder: nn.Module, bandwidth: Tensor):
        super().__init__()
        self.decoder, self.log_variance = decoder, 2 * bandwidth.log()
        self.out_features = decoder.out_features

    @property
    def family(self):
        return self.decoder.family

    def loc_and_log_scale(self, z: Tensor) -> tuple[Tensor, Tensor]:
        loc, log_scale = self.decoder.loc_and_log_scale(z)
        return loc, 0.5 * torch.logaddexp(2 * log_scale, self.log_variance)


def widened(vae: nn.Module, bandwidth: Tensor) -> nn.Module:
    r"""Return a model with more noise, of which normal noise is a blur of the density.

    .. math:: \sigma_j(z)^2 + h_j^2 \text{ in the place of } \sigma_j(z)^2

    Parameters
    ----------
    vae : GaussianVAEModule
        The model.
    bandwidth : Tensor of shape (n_features,)
        h, in standardised units; zero leaves a column as it is.

    Returns
    -------
    GaussianVAEModule
        It shares all weights with the model.
    """
    wide = copy.copy(vae)
    wide._modules = dict(vae._modules, decoder=_WidenedDecoder(vae.decoder, bandwidth))
    return wide


def places_of(mask: Tensor) -> Tensor:
    """Return where a mask of one dimension is true, of shape (n,)."""
    return torch.nonzero(mask)[:, 0]


def rows_at_once(vaes: Sequence[nn.Module], width: int, known: Tensor | None) -> int:
    """Return for how many rows proposals are made at once: they are many times the row's numbers.

    Parameters
    ----------
    vaes
        As for :func:`log_density`.
    width : int
        Of :func:`~skgvae.likelihood.widest`.
    known
        As for :func:`log_density`.
    """
    n_latents = vaes[0].encoder.out_features
    n_numbers = 4 * n_latents * width
    if known is not None:  # several modes, and at first a precision for each component
        n_components = getattr(vaes[0].prior, "n_components", 1)
        n_numbers = max(4 * n_numbers, 4 * n_components * n_latents**2)
    device = next(vaes[0].parameters()).device
    return max(1, at_once(MAX_ELEMENTS, device) // n_numbers)


def _log_background(v2, known=None):
    """Return the log density of a Cauchy distribution of all known columns, of one scale."""
    d = v2.new_full((len(v2),), v2.shape[-1]) if known is None else known.sum(-1).to(v2)
    v2 = v2 if known is None else v2.where(known, 0.0)
    distance = (v2 / BACKGROUND_SCALE).square().sum(-1)
    constant = torch.lgamma((1 + d) / 2) - 0.5 * (1 + d) * math.log(math.pi)
    return constant - d * math.log(BACKGROUND_SCALE) - 0.5 * (1 + d) * torch.log1p(distance)


def _refined(vaes, v1, v2, known, width, draws, n_first, background, tolerance):
    proposals = [Proposal(vae, v1, v2, known, width) for vae in vaes]
    sums, before = Sums(len(vaes), v2), 0
    needed = torch.ones_like(sums.counts, dtype=torch.bool)
    for size in (n_first * n for n in ROUNDS):
        for m, proposal in enumerate(proposals):
            rows = places_of(needed[m])
            if len(rows):
                sums.add(m, rows, proposal.draw(rows, draws[m][before:size])[1])
        before, needed = size, sums.unsettled(background, tolerance)
        if not needed.any():
            break
    return sums.estimate(background)


class Sums:
    """Of weights and their squares: what the estimate of each model and row is made of."""

    def __init__(self, n_models, like):
        self.log_sum = like.new_full((n_models, len(like)), -math.inf)
        self.log_square, self.counts = self.log_sum.clone(), torch.zeros_like(self.log_sum)

    def add(self, m, rows, log_weights):
        """Add weights of a model and some rows, of shape (K, n)."""
        for sums, factor in (self.log_sum, 1), (self.log_square, 2):
            more = torch.logsumexp(factor * log_weights, 0)
            sums[m, rows] = torch.logaddexp(sums[m, rows], more)
        self.counts[m, rows] += len(log_weights)

    def variances(self):
        """Return the variance of the estimate of each model, relative to its square."""
        # Of equal weights the sum of squares is the square of the sum over their number.
        excess = torch.exp(self.log_square - 2 * self.log_sum) - 1 / self.counts
        return excess.clamp(min=0) * self.counts / (self.counts - 1)

    def estimate(self, background):
        """Return the estimate for all models together, and for what is added to them."""
        total, variances = self._total_and_variances(background)
        return Estimate(total, variances.sum(0).sqrt())

    def unsettled(self, background, tolerance):
        """Say of which models a row needs more draws, of shape (n_models, n_samples)."""
        _, variances = self._total_and_variances(background)
        is_small = variances <= tolerance**2 / len(variances)
        return ~((variances.sum(0) <= tolerance**2) | is_small)

    def _total_and_variances(self, background):
        # The variance of the total, relative to its square: of the logarithm, nearly.
        log_means = self.log_sum - self.counts.log() - math.log(len(self.counts))
        total = torch.logaddexp(torch.logsumexp(log_means, 0), background)
        share = torch.exp(log_means - total)
        # What has no share may be unknown: then its variance is not finite.
        return total, torch.where(share > 0, share.square() * self.variances(), 0.0)
