"""Where may the latents of a row lie? Gaussians near p(z | its known cells), to draw z from."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .likelihood import draws_at_once, widest
from .nn.prior import GaussianComponents, gaussian_components
from .objectives import decoded_log_prob

Q_SHARE = 0.25  # of the draws
N_STEPS = 2  # towards a mode of p(z | row)
SHARES_OF_A_STEP = 1.0, 0.5, 0.25, 0.1, 0.03  # of which the first that leads uphill is taken
WIDTH = 1.1  # of a Gaussian there: tails that are too light miss what counts most
MAX_MODES = 4  # of a row with unknown cells
EVEN_SHARE = 0.1  # of the draws from its modes, whatever they weigh


class LinearPosterior(NamedTuple):
    """z given a row, for each of C components of the prior; exact for linear decoders."""

    log_evidence: Tensor
    """Of the component and the known cells together, in nats, of shape (C, n)."""
    mean: Tensor
    """Of z, of shape (C, n, l)."""
    root: Tensor
    """Lower triangular, a root of the precision of z, of shape (C, n, l, l)."""


def linear_posterior(
    v2: Tensor,
    known: Tensor,
    components: GaussianComponents,
    loc: Tensor,
    slope: Tensor,
    precision: Tensor,
) -> LinearPosterior:
    """Return p(z | known cells) where v2 = loc + slope (z - mean) + noise for each component.

    Parameters
    ----------
    v2 : Tensor of shape (n, d)
        Rows; what an unknown cell holds is finite and does not matter.
    known : Tensor of bool, of shape (n, d)
        Which cells are known.
    components : GaussianComponents
        C Gaussians of z.
    loc, slope, precision : Tensor of shape (C, d), (C, d, l) and (C, d)
        The decoder at the mean of each component: its mean, the derivatives of that, and one over
        its variance.
    """
    root = precision.sqrt()
    score = (v2 - loc[:, None]) * root[:, None]  # (C, n, d)
    log_lik = (root.log() - 0.5 * math.log(2 * math.pi))[:, None] - 0.5 * score.square()
    log_lik = log_lik.where(known, 0.0).sum(-1)
    return posterior_near(log_lik, score, slope * root[..., None], known, components)


def posterior_near(
    log_lik: Tensor, score: Tensor, slope: Tensor, known: Tensor, components: GaussianComponents
) -> LinearPosterior:
    r"""Return p(z | known cells) where v2 is linear in z but for noise, near each component.

    With the precision :math:`F^T F` of a component and the rows J of ``slope`` that belong to
    known cells, the precision of z is :math:`\Lambda = F^T F + J^T J`, and :math:`\Lambda^{-1} J^T
    r` with the entries r of ``score`` is how far its mean is from that of the component.

    Parameters
    ----------
    log_lik : Tensor of shape (C, n)
        log p(known cells | z) at the mean of each component.
    score : Tensor of shape (C, n, d)
        Each cell less its mean there, in standard deviations; what an unknown one holds is finite
        and does not matter.
    slope : Tensor of shape (C, d, l)
        Derivatives of the mean there, in standard deviations.
    known : Tensor of bool, of shape (n, d)
        Which cells are known.
    components : GaussianComponents
        C Gaussians of z.
    """
    log_weights, means, factors = components
    n_latents = means.shape[-1]
    outer = (slope[..., None] * slope[..., None, :]).flatten(-2)  # (C, d, l²)
    information = (known.to(outer) @ outer).unflatten(-1, (n_latents, n_latents))
    root, _ = torch.linalg.cholesky_ex((factors.mT @ factors)[:, None] + information)
    pull = score.where(known, 0.0) @ slope
    step = torch.cholesky_solve(pull[..., None], root)[..., 0]
    log_evidence = (
        (log_weights.log_softmax(-1) + log_diagonal(factors).sum(-1))[:, None]
        - log_diagonal(root).sum(-1)
        + log_lik
        + 0.5 * (pull * step).sum(-1)
    )
    return LinearPosterior(log_evidence, means[:, None] + step, root)


class Proposal:
    """What the draws of rows come from: q(z | v1), and Gaussians at modes of p(z | v2).

    A complete row has one mode, near the mean of q. A row with unknown cells may have several: of
    the components of the prior those that say most of its known cells, at first by the decoder's
    slope at the mean of the component, then by its slope at the mode.

    Parameters
    ----------
    vae : GaussianVAEModule
        The model.
    v1, v2 : Tensor of shape (n, in_features) and (n, d)
        Rows as the encoder sees them, and as the decoder gives them.
    known : Tensor of bool, of shape (n, d), optional
        Which cells of v2 are known; all by default.
    width : int, optional
        Numbers of a row and draw, of :func:`~skgvae.likelihood.widest`.
    """

    def __init__(
        self,
        vae: nn.Module,
        v1: Tensor,
        v2: Tensor,
        known: Tensor | None = None,
        width: int | None = None,
    ):
        self.vae, self.v2, self.known = vae, v2, known
        self.width = widest(vae) if width is None else width
        self.loc, self.log_scale = vae.encoder.loc_and_log_scale(v1)
        self.log_scale = self.log_scale.expand_as(self.loc)
        components = gaussian_components(vae.prior, self.loc)
        if known is None:
            chosen = components.nearest(self.loc)[None]
            mode, root = self.loc[None], torch.diag_embed(torch.exp(-self.log_scale))[None]
            self.log_share = torch.zeros_like(self.loc[None, :, 0])
        else:
            chosen, mode, root = self._start(components)
        n_modes = len(mode)
        rows = [None if a is None else a.repeat(n_modes, 1) for a in (v2, known)]
        own = components.means[chosen].flatten(0, 1), components.factors[chosen].flatten(0, 1)
        for _ in range(N_STEPS):
            moved, new_root, is_found = gaussian_posterior(vae, *rows, mode.flatten(0, 1), *own)
            if known is not None:  # from far away a step may lead to nowhere
                moved = _no_lower(vae, *rows, mode.flatten(0, 1), moved)
            is_found = is_found.view(n_modes, -1)
            mode = moved.view_as(mode).where(is_found[..., None], mode)
            root = (new_root / WIDTH).view_as(root).where(is_found[..., None, None], root)
        self.mode, self.root = mode, root

    def _start(self, components):
        family = self.vae.decoder.family
        loc, log_scale, slope_of = _near(self.vae.decoder, components.means)
        slopes = (slope_of(a).mT for a in (loc, log_scale))
        slope, _ = family.information_roots(loc[0], log_scale[0], *slopes)
        at_means = self.v2, loc[0, :, None], log_scale[0, :, None]
        log_lik = family.log_prob(*at_means).where(self.known, 0.0).sum(-1)
        score = family.score(*at_means)
        found = posterior_near(log_lik, score, slope.mT, self.known, components)
        weights = found.log_evidence.nan_to_num(-torch.inf, -torch.inf).softmax(0)
        n_modes = min(MAX_MODES, len(weights))
        weights, chosen = weights.nan_to_num(1.0).topk(n_modes, 0)
        weights = weights / weights.sum(0)
        self.log_share = torch.lerp(weights, torch.full_like(weights, 1 / n_modes), EVEN_SHARE)
        self.log_share = self.log_share.log()
        mode, root = (
            a.gather(0, chosen.view(*chosen.shape, *[1] * (a.ndim - 2)).expand(-1, *a.shape[1:]))
            for a in (found.mean, found.root)
        )
        return chosen, mode, root / WIDTH

    def draw(self, rows: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Return z of some rows and log p(v2 | z) + log p(z) - log r(z).

        Parameters
        ----------
        rows : Tensor of shape (r,)
            Indices.
        draws : Tensor of shape (K, l)
            Standard normal.

        Returns
        -------
        z : Tensor of shape (K, r, l)
        log_weights : Tensor of shape (K, r)
        """
        v2, known = self.v2[rows], None if self.known is None else self.known[rows]
        loc, log_scale, log_share = self.loc[rows], self.log_scale[rows], self.log_share[:, rows]
        mode, root, scale = self.mode[:, rows], self.root[:, rows], log_scale.exp()
        n_from_q = math.ceil(Q_SHARE * len(draws))
        share, order = n_from_q / len(draws), torch.arange(len(draws), device=v2.device)
        # Each mode has its share of what is left, one mode after the other.
        ends = log_share.exp().cumsum(0) * (len(draws) - n_from_q) + n_from_q
        ends[-1] = len(draws)
        zs, log_weights, n_done = [], [], 0
        for eps in draws_at_once(self.width, v2, draws):
            place = order[n_done : n_done + len(eps), None]
            n_done += len(eps)
            z = torch.addcmul(loc, scale, eps)
            for t in reversed(range(len(mode))):
                steps = eps[:, 0].mT.expand(len(rows), -1, -1)
                steps = torch.linalg.solve_triangular(root[t].mT, steps, upper=True)
                is_own = (place >= n_from_q) & (place + 0.5 < ends[t])
                z = torch.where(is_own[..., None], mode[t] + steps.permute(2, 0, 1), z)
            log_q = _log_peak(-log_scale) - 0.5 * ((z - loc) / scale).square().sum(-1)
            at_modes = []
            for t in range(len(mode)):
                scaled = ((z - mode[t]).transpose(0, 1) @ root[t]).square().sum(-1).mT
                at_modes.append(log_share[t] + _log_peak(log_diagonal(root[t])) - 0.5 * scaled)
            at_modes = torch.stack(at_modes).logsumexp(0)
            log_r = torch.logaddexp(log_q + math.log(share), at_modes + math.log(1 - share))
            decoded = self.vae.decoder.loc_and_log_scale(z)
            log_lik = decoded_log_prob(self.vae, v2, *decoded, known)
            zs.append(z)
            log_weights.append(log_lik + self.vae.prior.log_prob(z) - log_r)
        return torch.cat(zs), torch.cat(log_weights)


def _no_lower(vae, v2, known, z, moved):
    # The farthest of some points on the way at which log p(v2, z) is not lower; z if it is at all.
    def log_joint(z):
        log_lik = decoded_log_prob(vae, v2, *vae.decoder.loc_and_log_scale(z[None]), known)[0]
        return log_lik + vae.prior.log_prob(z)

    before, best, is_open = log_joint(z), z, torch.ones_like(z[:, 0], dtype=torch.bool)
    for share in SHARES_OF_A_STEP:
        point = torch.lerp(z, moved, share)
        is_better = is_open & (log_joint(point) >= before)
        best, is_open = point.where(is_better[:, None], best), is_open & ~is_better
        if not is_open.any():
            break
    return best


def log_diagonal(root: Tensor) -> Tensor:
    """Return the logarithms of the diagonals of matrices."""
    return root.diagonal(dim1=-2, dim2=-1).log()


def _log_peak(log_precision):
    # Of a Gaussian, given half the logarithms of the precisions along its axes.
    return log_precision.sum(-1) - 0.5 * log_precision.shape[-1] * math.log(2 * math.pi)


def _near(decoder, z):
    # What is decoded at z, of shape (n, l), and a small step from it along each latent: mean and
    # log scale (1 + l, n, d); and a function that gives derivatives of such values, (n, *, l).
    # As differences they need no more of the decoder than its values: a proposal may be inexact.
    step = torch.finfo(z.dtype).eps ** (1 / 3)
    moved = z + step * torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)[:, None]
    loc, log_scale = decoder.loc_and_log_scale(torch.cat([z[None], moved]))

    def slope_of(values):
        return ((values[1:] - values[0]) / step).movedim(0, -1)

    return loc, log_scale.expand_as(loc), slope_of


def gaussian_posterior(
    vae: nn.Module, v2: Tensor, known: Tensor | None, z: Tensor, mean: Tensor, factor: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return p(z | v2) as a Gaussian: its mean, a root of its precision, and whether there is one.

    It is exact for a decoder that is linear in z, with constant noise. In general the mean is one
    step of Fisher scoring from z.

    Parameters
    ----------
    vae, v2, known
        As for :class:`Proposal`.
    z : Tensor of shape (n, l)
        Where the decoder's slope is taken.
    mean, factor : Tensor of shape (n, l) and (n, l, l)
        Of a Gaussian prior for each row.
    """
    loc, log_scale, slope_of = _near(vae.decoder, z)
    gradient = slope_of(decoded_log_prob(vae, v2, loc, log_scale, known))
    slopes = (slope_of(a).mT for a in (loc, log_scale))  # (n, latents, features)
    roots = vae.decoder.family.information_roots(loc[0], log_scale[0], *slopes)
    if known is not None:
        roots = (root.where(known[:, None], 0.0) for root in roots)
    information = sum(root @ root.mT for root in roots)
    precision = factor.mT @ factor
    root, info = torch.linalg.cholesky_ex(precision + information)
    pull = precision @ (mean - z)[..., None] + gradient[..., None]
    mode = z + torch.cholesky_solve(pull, root)[..., 0]
    is_found = (info == 0) & mode.isfinite().all(-1) & root.isfinite().all(-1).all(-1)
    return mode, root, is_found
