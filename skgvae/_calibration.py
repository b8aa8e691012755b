"""How wide are predictions? As wide as rows that a model has not seen say."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize, minimize_scalar
from torch import Tensor, nn

from ._rows import RowDataset
from .likelihood import WIDE, class_logits, decoded_components
from .objectives import log_mean_exp

WIDE_SHARE = 1 / 256  # of the components, where no rows say another one
N_DRAWS = 64  # of each model
MIN_ROWS = 20  # of fewer nothing is learned
PRIOR_ROWS = 50  # what the choice of no correction is worth
MAX_NUMBERS = 2**20  # of a model's rows, draws and targets
MAX_COMPARED = 512  # rows of a model in which all models are compared
MIN_VARIANCE_LEFT = 0.25  # of the noise, when what models disagree about is taken from it


class HeldOut(NamedTuple):
    """What a model says of rows that it has not seen, in standardised units."""

    loc: Tensor
    """Of shape (K, n, n_targets)."""
    log_scale: Tensor
    """Of shape (K, n, n_targets)."""
    v2: Tensor
    """What was found, of shape (n, n_targets)."""
    weight: Tensor
    """Of shape (n,)."""


@torch.no_grad()
def spread_and_wide_share(
    vaes: Sequence[nn.Module], valid: Sequence[RowDataset], draws: Tensor, floor: Tensor
) -> tuple[np.ndarray | None, float]:
    r"""Return how much wider or narrower the mixture of models should be.

    These are the logarithm of a factor f of σ for each target, None if there are too few rows to
    know it, and the share of wide components. Both maximise the log density that each model gives
    rows that it has not seen, with a prior that is worth 50 rows. Then the spread of the models'
    means counts as noise no more: with the variance v of that and the mean squared error e of a
    model's mean

    .. math:: f \leftarrow f \sqrt{1 - 2 v / e}

    What models disagree about is a part of the error of each; in their mixture it is there once
    as the distance of its components, and once it averages out. v is a mean over training rows,
    which most models have seen, and so too small rather than too large.

    Parameters
    ----------
    vaes : sequence of GaussianVAEModule
        M models, float64.
    valid : sequence of RowDataset
        Rows that each of them has not seen.
    draws : Tensor of shape (K, latent_features)
        Standard normal.
    floor : Tensor of shape (n_targets,)
        Of σ, below which the mean of its values does not fall.
    """
    own = [_some(rows, MAX_NUMBERS // (len(draws) * rows.v2.shape[1])) for rows in valid]
    if sum(len(rows) for rows in own) < MIN_ROWS:
        return None, WIDE_SHARE
    parts = [_predicted(vae, rows, draws) for vae, rows in zip(vaes, own, strict=True)]
    log_spread, wide_share = fit_spread(parts, vaes[0].decoder.family.log_prob)
    if len(vaes) > 1:
        left = 1 - 2 * (_disagreement(vaes, own, draws) / _squared_error(parts)).cpu()
        log_spread = log_spread + 0.5 * left.clamp(min=MIN_VARIANCE_LEFT).log()
    scale = torch.cat([part.log_scale.exp().flatten(0, 1) for part in parts]).mean(0).cpu()
    log_spread = torch.maximum(log_spread, (floor / scale).log().clamp(max=0))
    return log_spread.numpy(), wide_share


def fit_spread(parts: Sequence[HeldOut], log_prob: Callable) -> tuple[Tensor, float]:
    """Return the logarithm of the best factor of σ for each target, and the best share of wide.

    Parameters
    ----------
    parts : sequence of HeldOut
        Predictions of each model.
    log_prob : callable
        Log density of a cell, given its value, location and log scale.
    """
    n_targets = parts[0].loc.shape[-1]
    start = parts[0].loc.new_zeros(n_targets + 1)
    start[-1] = math.log(WIDE_SHARE / (1 - WIDE_SHARE))

    def loss(params):
        log_spread, logit = params[:-1], params[-1]
        log_wide, log_narrow = nn.functional.logsigmoid(torch.stack([logit, -logit]))
        total = spread_cost(log_spread).sum()
        total = total - PRIOR_ROWS * torch.lerp(log_narrow, log_wide, WIDE_SHARE)
        for part in parts:
            log_scale = part.log_scale + log_spread
            narrow, wide = (
                log_mean_exp(log_prob(part.v2, part.loc, log_scale + log_factor).sum(-1))
                for log_factor in (0.0, math.log(WIDE))
            )
            found = torch.logaddexp(log_narrow + narrow, log_wide + wide)
            total = total - (part.weight * found).sum()
        return total

    @torch.enable_grad()
    def value_and_gradient(params):
        params = torch.from_numpy(params).to(start).requires_grad_()
        value = loss(params)
        (gradient,) = torch.autograd.grad(value, params)
        return value.item(), gradient.cpu().numpy()

    # Within e to the power of 7, for the sake of errors of zero or without a limit.
    found = minimize(
        value_and_gradient, start.cpu().numpy(), jac=True, bounds=[(-7, 7)] * len(start)
    )
    found = torch.from_numpy(found.x)
    return found[:-1], float(found[-1].sigmoid())


def spread_cost(log_spread: Tensor) -> Tensor:
    """Return the prior's cost of a factor f of σ, in nats: what 50 rows that fit f = 1 lose."""
    return PRIOR_ROWS * (log_spread + 0.5 * torch.expm1(-2 * log_spread))


@torch.no_grad()
def log_inverse_temperature(
    joints: Sequence[nn.Module], valid: Sequence[RowDataset], draws: Tensor
) -> np.ndarray | None:
    """Return the logarithm of the best factor of the logits, of shape (); None of few labels.

    It maximises the log probability of the classes of rows that each model has not seen, and of 50
    rows more of which the classes are as the models say.

    Parameters
    ----------
    joints : sequence of GaussianVAEClassifierModule
        M models, float64.
    valid : sequence of RowDataset
        Rows that each of them has not seen.
    draws : Tensor of shape (K, latent_features + out_features)
        Standard normal.

    References
    ----------
    Guo, Pleiss, Sun & Weinberger, "On Calibration of Modern Neural Networks", 2017,
    arXiv:1706.04599.
    """
    parts = []
    for joint, rows in zip(joints, valid, strict=True):
        rows = rows.subset(rows.label_weight > 0) if rows.label_weight is not None else rows
        n_numbers = len(draws) * (joint.decoder.out_features + len(draws.T))
        rows = _some(rows, MAX_NUMBERS // n_numbers)
        weight = rows.weight if rows.label_weight is None else rows.label_weight
        weight = torch.ones(len(rows)) if weight is None else weight
        if len(rows):
            parts.append((class_logits(joint, rows.v1.to(draws), draws), rows.label, weight))
    n = sum(len(label) for _, label, _ in parts)
    if n < MIN_ROWS:
        return None

    def loss(log_factor):
        total = 0.0
        for logits, label, weight in parts:
            before, log_p = (
                log_mean_exp((f * logits).log_softmax(-1)) for f in (1.0, math.exp(log_factor))
            )
            chosen = log_p.gather(-1, label.to(logits.device)[:, None])[:, 0]
            total -= (weight.to(logits) * chosen).sum() + PRIOR_ROWS / n * (
                before.exp() * log_p
            ).sum()
        return float(total)

    return np.array(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x)


def _some(rows, n):
    return rows.subset(slice(None, max(MIN_ROWS, n)))


def _predicted(vae, rows, draws):
    device = next(vae.parameters()).device
    v1, v2 = rows.v1.double().to(device), rows.v2.double().to(device)
    loc, scale = decoded_components(vae, v1, draws)
    weight = torch.ones_like(v2[:, 0]) if rows.weight is None else rows.weight.to(v2)
    return HeldOut(loc, scale.log(), v2, weight)


def _squared_error(parts):
    error = sum((p.weight[:, None] * (p.v2 - p.loc.mean(0)).square()).sum(0) for p in parts)
    return error / sum(part.weight.sum() for part in parts)


def _disagreement(vaes, own, draws):
    """Return the variance over models of their means, a mean over rows."""
    total, n = 0.0, 0.0
    for rows in own:
        said = [_predicted(vae, _some(rows, MAX_COMPARED), draws) for vae in vaes]
        variance = torch.stack([part.loc.mean(0) for part in said]).var(0, correction=0)
        total, n = total + (said[0].weight[:, None] * variance).sum(0), n + said[0].weight.sum()
    return total / n
