"""What may the unknown cells of a row be? Draws of z given the known ones, and of the cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ._density import ROUNDS, Sums, places_of, rows_at_once
from ._proposals import Proposal
from .likelihood import MAX_ELEMENTS, widest


class PosteriorDraws(NamedTuple):
    """Draws from p(z | known cells), of equal weight."""

    z: Tensor
    """Of shape (n, S, latent_features)."""
    model: Tensor
    """Of which model each is, of shape (n, S)."""
    n_effective: Tensor
    """How many draws of the posterior itself those are worth that they were chosen from."""


@torch.no_grad()
def posterior_draws(
    vaes: Sequence[nn.Module],
    v1: Tensor,
    v2: Tensor,
    known: Tensor | None,
    draws: Sequence[Tensor],
    n_first: int,
    position: Tensor,
    model: Tensor | None = None,
    n_needed: int = 100,
) -> PosteriorDraws:
    """Return draws of z given the known cells of each row, by sampling importance resampling.

    Parameters
    ----------
    vaes, v1, v2, known, draws, n_first
        As for :func:`log_density`.
    position : Tensor of shape (n, S)
        Numbers in (0, 1), each of which chooses one of a row's weighted draws: uniform ones make
        random draws, those at equal distances represent the posterior best.
    model : Tensor of shape (S,), optional
        The model that each is a draw of. By default all models in proportion to how likely they
        find the row.
    n_needed : int
        How many draws of the posterior itself those of each row and model should be worth.

    References
    ----------
    Rubin, "Using the SIR algorithm to simulate posterior distributions", Bayesian Statistics 3,
    1988.
    """
    draws, width = [own.to(v2) for own in draws], widest(vaes[0])
    n_latents = draws[0].shape[-1]
    found = PosteriorDraws(
        v2.new_empty(*position.shape, n_latents),
        torch.empty_like(position, dtype=torch.long),
        torch.zeros_like(v2[:, 0]),
    )
    everything = torch.arange(len(v2), device=v2.device)
    n_numbers = len(vaes) * len(draws[0]) * n_latents
    n_rows = max(1, min(rows_at_once(vaes, width, known), 4 * MAX_ELEMENTS // n_numbers))
    for part in everything.split(n_rows):
        own_known = None if known is None else known[part]
        proposals = [Proposal(vae, v1[part], v2[part], own_known, width) for vae in vaes]
        sums, before = Sums(len(vaes), v2[part]), 0
        rows, zs, log_weights = everything[: len(part)], [], []
        for size in (n_first * n for n in ROUNDS):
            new = [p.draw(rows, own[before:size]) for p, own in zip(proposals, draws, strict=True)]
            new_z, new_log_weights = (torch.stack(a) for a in zip(*new, strict=True))
            for m, own in enumerate(new_log_weights):
                sums.add(m, rows, own)
            zs.append(new_z)
            log_weights.append(new_log_weights)
            is_done = (sums.variances()[:, rows] <= 1 / n_needed).all(0)
            is_done |= size == ROUNDS[-1] * n_first
            done, others = places_of(is_done), places_of(~is_done)
            if len(done):
                place = part[rows[done]]
                own = (torch.cat(a, 1)[:, :, done] for a in (zs, log_weights))
                chosen = _resample(*own, position[place], model)
                for whole, one in zip(found, chosen, strict=True):
                    whole[place] = one
            if not len(others):
                break
            zs, log_weights = ([a[:, :, others] for a in parts] for parts in (zs, log_weights))
            rows, before = rows[others], size
    return found


def decoded_by(vaes: Sequence[nn.Module], z: Tensor, model: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and log scale of what each z is decoded to, by the model that it is a draw of.

    Parameters
    ----------
    vaes : sequence of GaussianVAEModule
        Models.
    z : Tensor of shape (*, latent_features)
        Latents.
    model : Tensor of int, of shape (*)
        Their models.
    """
    flat, n_features = z.flatten(0, -2), vaes[0].decoder.out_features
    loc, log_scale = (z.new_empty(len(flat), n_features) for _ in range(2))
    for m, vae in enumerate(vaes):
        own = places_of(model.flatten() == m)
        own_loc, own_log_scale = vae.decoder.loc_and_log_scale(flat[own])
        loc[own], log_scale[own] = own_loc, own_log_scale.expand_as(own_loc)
    return tuple(part.view(*z.shape[:-1], n_features) for part in (loc, log_scale))


def drawn_by(vaes: Sequence[nn.Module], z: Tensor, model: Tensor, eps: Tensor) -> Tensor:
    """Return draws of v2 given each z, of shape (*, out_features).

    Parameters
    ----------
    vaes, z, model
        As for :func:`decoded_by`.
    eps : Tensor of shape (*, out_features)
        Standard normal.
    """
    return vaes[0].decoder.family.draw(*decoded_by(vaes, z, model), eps)


def given_others(log_prob: Tensor) -> Tensor:
    r"""Return which of a row's draws of z each cell has, given the other cells of the row.

    For draws from p(z | x) the weights are :math:`1 / p(x_j | z)`, so that

    .. math:: p(x_j | x_{-j}) = 1 / E[1 / p(x_j | z)]

    Parameters
    ----------
    log_prob : Tensor of shape (S, n, d)
        Of each cell at each draw of z given the row.

    Returns
    -------
    Tensor of int, of shape (S, n, d)
    """
    n_draws = len(log_prob)
    weights = (-log_prob).softmax(0).movedim(0, -1).contiguous()
    position = (torch.arange(n_draws, device=log_prob.device) + 0.5) / n_draws
    return _places(weights, position.expand(weights.shape)).movedim(-1, 0)


def _resample(z, log_weights, position, model):
    # Of draws z (M, K, n, l) those that each position meets, laid out by their weights.
    n_models, n_draws = z.shape[:2]
    log_weights = log_weights.permute(2, 0, 1)  # (n, M, K)
    if model is None:
        weights = log_weights.flatten(1).softmax(-1)
        place = _places(weights, position)
    else:
        weights = log_weights.softmax(-1)
        place = torch.empty_like(position, dtype=torch.long)
        for m in range(n_models):
            own = places_of(model == m)
            place[:, own] = m * n_draws + _places(weights[:, m].contiguous(), position[:, own])
        weights = weights.flatten(1) / n_models
    z = z.permute(2, 0, 1, 3).flatten(1, 2)  # (n, M K, l)
    chosen = z.gather(1, place[..., None].expand(-1, -1, z.shape[-1]))
    return PosteriorDraws(chosen, place // n_draws, 1 / weights.square().sum(-1))


def _places(weights, position):
    total = weights.cumsum(-1)
    place = torch.searchsorted(total, position.to(total).contiguous() * total[:, -1:])
    return place.clamp(max=total.shape[-1] - 1)
