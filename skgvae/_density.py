"""How likely is a row? By as many draws of its latents as it takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .likelihood import MAX_ELEMENTS, at_once, draws_at_once, widest
from .nn.prior import gaussian_near
from .objectives import decoded_log_prob, importance_log_weights

TOLERANCE = 0.05  # nats: the standard error up to which an estimate is settled
ROUNDS = 1, 4, 16  # draws of each model in all, in first rounds
SCREENING = 8  # a first round has so many times the draws from q alone that come before it
Q_SHARE = 0.25
N_STEPS = 2  # towards the mode of p(z | row)
WIDTH = 1.1  # of the Gaussian there: tails that are too light miss what counts most
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
    vaes: Sequence[nn.Module], v1: Tensor, v2: Tensor, draws: Sequence[Tensor], n_first: int
) -> Estimate:
    r"""Return log p(v2) under the mixture of several models, for v2 = v1, by importance sampling.

    .. math:: \log \tfrac1K \sum_k p(v_2 | z_k) \, p(z_k) / r(z_k), \quad z_k \sim r

    A few draws from r = q(z | v1) settle a row whose weights are nearly equal. For the others a
    quarter of r is q, and the rest a Gaussian at the mode of p(z | v2), with the curvature there
    (Laplace's approximation); of each model that matters a row has the more draws, the longer
    its estimate takes to settle. What a row gets depends on itself alone.

    Parameters
    ----------
    vaes : sequence of GaussianVAEModule
        Models with equal weights.
    v1, v2 : Tensor of shape (n_samples, n_features)
        Rows.
    draws : sequence of Tensor of shape (K, latent_features)
        For each model some of its own, of :func:`~skgvae.likelihood.latent_draws`: all that a
        row can have, 16 times ``n_first``.
    n_first : int
        Draws of each model in the first round, at least two.

    References
    ----------
    Hesterberg, "Weighted Average Importance Sampling and Defensive Mixture Distributions",
    Technometrics 37(2), 1995.
    """
    draws = [own.to(v2) for own in draws]
    background = _log_background(v2) + math.log(BACKGROUND_SHARE)
    sums = _Sums(len(vaes), v2)
    for m, vae in enumerate(vaes):
        screening = draws[m][: max(2, n_first // SCREENING)]
        for eps in draws_at_once(widest(vae), v1, screening):
            sums.add(m, ..., importance_log_weights(vae, v1, v2, eps))
    # By each model: one whose draws have missed the row would seem to matter little.
    unsettled = torch.nonzero(~(sums.variances().amax(0) <= TOLERANCE**2))[:, 0]
    found = sums.estimate(background)
    # What a proposal is made of are many times the numbers of a row.
    n_numbers = draws[0].shape[-1] * widest(vaes[0].decoder)
    for rows in unsettled.split(max(1, at_once(MAX_ELEMENTS, v2.device) // (4 * n_numbers))):
        if len(rows):  # a split of none is one part
            refined = _refined(vaes, v1[rows], v2[rows], draws, n_first, background[rows])
            for whole, part in zip(found, refined, strict=True):
                whole[rows] = part
    return found


def _log_background(v2):
    """Return the log density of a Cauchy distribution of all columns, of one scale."""
    d = v2.shape[-1]
    distance = (v2 / BACKGROUND_SCALE).square().sum(-1)
    constant = math.lgamma((1 + d) / 2) - 0.5 * (1 + d) * math.log(math.pi)
    return constant - d * math.log(BACKGROUND_SCALE) - 0.5 * (1 + d) * torch.log1p(distance)


def _refined(vaes, v1, v2, draws, n_first, background):
    proposals = [_Proposal(vae, v1, v2) for vae in vaes]
    sums, before = _Sums(len(vaes), v2), 0
    needed = torch.ones_like(sums.counts, dtype=torch.bool)
    for size in (n_first * n for n in ROUNDS):
        for m, proposal in enumerate(proposals):
            rows = torch.nonzero(needed[m])[:, 0]
            if len(rows):
                sums.add(m, rows, proposal.log_weights(rows, draws[m][before:size]))
        before, needed = size, sums.unsettled(background)
        if not needed.any():
            break
    return sums.estimate(background)


class _Sums:
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

    def unsettled(self, background):
        """Say of which models a row needs more draws, of shape (n_models, n_samples)."""
        _, variances = self._total_and_variances(background)
        is_small = variances <= TOLERANCE**2 / len(variances)
        return ~((variances.sum(0) <= TOLERANCE**2) | is_small)

    def _total_and_variances(self, background):
        # The variance of the total, relative to its square: of the logarithm, nearly.
        log_means = self.log_sum - self.counts.log() - math.log(len(self.counts))
        total = torch.logaddexp(torch.logsumexp(log_means, 0), background)
        share = torch.exp(log_means - total)
        # What has no share may be unknown: then its variance is not finite.
        return total, torch.where(share > 0, share.square() * self.variances(), 0.0)


class _Proposal:
    """What the draws of a row come from: q(z | v1), and a Gaussian at the mode of p(z | v2)."""

    def __init__(self, vae, v1, v2):
        self.vae, self.v2, self.width = vae, v2, widest(vae)
        self.loc, self.log_scale = vae.encoder.loc_and_log_scale(v1)
        self.log_scale = self.log_scale.expand_as(self.loc)
        self.mode, self.root = self.loc, torch.diag_embed(torch.exp(-self.log_scale))
        for _ in range(N_STEPS):
            mode, root, is_found = _gaussian_posterior(vae, v2, self.mode)
            self.mode = torch.where(is_found[:, None], mode, self.mode)
            self.root = torch.where(is_found[:, None, None], root / WIDTH, self.root)

    def log_weights(self, rows, draws):
        """Return log p(v2 | z) + log p(z) - log r(z) of some rows, of shape (K, n)."""
        v2, loc, log_scale = self.v2[rows], self.loc[rows], self.log_scale[rows]
        mode, root, scale = self.mode[rows], self.root[rows], log_scale.exp()
        peak_of_q, peak_at_mode = _log_peak(-log_scale), _log_peak(_log_diagonal(root))
        n_from_q = math.ceil(Q_SHARE * len(draws))
        is_q, share = torch.arange(len(draws), device=v2.device) < n_from_q, n_from_q / len(draws)
        parts, n_done = [], 0
        for eps in draws_at_once(self.width, v2, draws):
            from_q = is_q[n_done : n_done + len(eps), None, None]
            n_done += len(eps)
            steps = eps[:, 0].mT.expand(len(root), -1, -1)
            steps = torch.linalg.solve_triangular(root.mT, steps, upper=True).permute(2, 0, 1)
            z = torch.where(from_q, torch.addcmul(loc, scale, eps), mode + steps)
            log_q = peak_of_q - 0.5 * ((z - loc) / scale).square().sum(-1)
            scaled = ((z - mode).transpose(0, 1) @ root).square().sum(-1).mT
            log_at_mode = peak_at_mode - 0.5 * scaled
            log_r = torch.logaddexp(log_q + math.log(share), log_at_mode + math.log(1 - share))
            log_lik = decoded_log_prob(self.vae, v2, *self.vae.decoder.loc_and_log_scale(z))
            parts.append(log_lik + self.vae.prior.log_prob(z) - log_r)
        return torch.cat(parts)


def _log_diagonal(root):
    return root.diagonal(dim1=-2, dim2=-1).log()


def _log_peak(log_precision):
    # Of a Gaussian, given half the logarithms of the precisions along its axes.
    return log_precision.sum(-1) - 0.5 * log_precision.shape[-1] * math.log(2 * math.pi)


def _gaussian_posterior(vae, v2, z):
    """Return p(z | v2) as a Gaussian: its mean, a root of its precision, and whether there is one.

    It is exact for a decoder that is linear in z, with constant noise, and a Gaussian prior. In
    general the mean is one step of Fisher scoring from z. Derivatives are differences: they need
    nothing of the decoder but its values, and a proposal need not be exact.
    """
    n_latents, decoder = z.shape[-1], vae.decoder
    step = torch.finfo(z.dtype).eps ** (1 / 3)
    moved = z + step * torch.eye(n_latents, dtype=z.dtype, device=z.device)[:, None]
    loc, log_scale = decoder.loc_and_log_scale(torch.cat([z[None], moved]))
    log_scale = log_scale.expand_as(loc)
    log_lik = decoder.family.log_prob(v2, loc, log_scale).sum(-1)
    gradient = (log_lik[1:] - log_lik[0]).mT / step
    by_loc = (loc[1:] - loc[0]) * torch.exp(-log_scale[0]) / step  # (latents, n, features)
    by_scale = (log_scale[1:] - log_scale[0]) / step
    of_loc, of_scale = decoder.family.fisher_information
    by_loc, by_scale = by_loc.transpose(0, 1), by_scale.transpose(0, 1)
    information = of_loc * by_loc @ by_loc.mT + of_scale * by_scale @ by_scale.mT
    mean, factor = gaussian_near(vae.prior, z)
    precision = factor.mT @ factor
    root, info = torch.linalg.cholesky_ex(precision + information)
    pull = precision @ (mean - z)[..., None] + gradient[..., None]
    mode = z + torch.cholesky_solve(pull, root)[..., 0]
    is_found = (info == 0) & mode.isfinite().all(-1) & root.isfinite().all(-1).all(-1)
    return mode, root, is_found
