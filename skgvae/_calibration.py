"""How wide are predictions? As wide as rows that a model has not seen say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize, minimize_scalar
from torch import Tensor, nn

from ._rows import RowDataset
from .likelihood import WIDE, class_logits, decoded_components
from .nn.noise import GaussianNoise, Noise
from .objectives import log_mean_exp

WIDE_SHARE = 1 / 256  # of the components, where no rows say another one
N_DRAWS = 64  # of each model
MIN_ROWS = 20  # of fewer nothing is learned
MAX_CORRELATED = 32  # targets of which the noise may be correlated
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


class NoiseCorrection(NamedTuple):
    """What the noise of predictions is corrected by."""

    log_spread: np.ndarray
    """Logarithm of a factor f of σ for each target, of shape (n_targets,)."""
    wide_share: float
    """Share of components that are wide."""
    root: np.ndarray | None
    """Lower triangular, a root of the correlation of the targets' noise; None if there is none."""


@torch.no_grad()
def noise_correction(
    vaes: Sequence[nn.Module], valid: Sequence[RowDataset], draws: Tensor, floor: Tensor
) -> NoiseCorrection | None:
    r"""Return what noise the mixture of models should have; None if there are too few rows.

    It maximises the log density that each model gives rows that it has not seen, with a prior that
    is worth 50 rows. Then the spread of the models' means counts as noise no more: with the
    variance v of that and the mean squared error e of a model's mean

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
        return None
    parts = [_predicted(vae, rows, draws) for vae, rows in zip(vaes, own, strict=True)]
    decoder = vaes[0].decoder
    is_one = decoder.noise == "isotropic"  # σ of all targets

    def pooled(values):
        return values.mean(0, keepdim=True).expand_as(values) if is_one else values

    log_spread, wide_share, root = fit_noise(parts, decoder.family, is_one)
    if len(vaes) > 1:
        spread, error = _disagreement(vaes, own, draws), _squared_error(parts)
        left = 1 - 2 * torch.nan_to_num(pooled(spread) / pooled(error)).cpu()
        log_spread = log_spread + 0.5 * left.clamp(min=MIN_VARIANCE_LEFT).log()
    scale = torch.cat([part.log_scale.exp().flatten(0, 1) for part in parts]).mean(0).cpu()
    log_spread = torch.maximum(log_spread, pooled(floor / scale).log().clamp(max=0))
    return NoiseCorrection(
        log_spread.clone().numpy(), wide_share, None if root is None else root.numpy()
    )


def fit_noise(
    parts: Sequence[HeldOut], noise: type[Noise] = GaussianNoise, is_one: bool = False
) -> tuple[Tensor, float, Tensor | None]:
    r"""Return the best factors of σ, share of wide components and correlation, as above.

    For residuals t in units of σ, a component has the density of :math:`M t`, with a lower
    triangular M, times its determinant. So the noise of the targets has the covariance
    :math:`(M^T M)^{-1}`. M is diagonal if the noise is not normal, or of many targets.

    Parameters
    ----------
    parts : sequence of HeldOut
        Predictions of each model.
    noise : subclass of Noise
        Family of the noise.
    is_one : bool
        Whether all targets have one factor, and no correlation.
    """
    n_targets = parts[0].loc.shape[-1]
    correlates = noise is GaussianNoise and 1 < n_targets <= MAX_CORRELATED and not is_one
    side = n_targets if correlates else 0
    below = torch.tril_indices(side, side, -1, device="cpu")
    n_factors = 1 if is_one else n_targets
    start = np.zeros(n_factors + below.shape[1] + 1)
    start[-1] = math.log(WIDE_SHARE / (1 - WIDE_SHARE))
    like = parts[0].loc

    def matrix(params):
        diagonal = params[:n_factors].exp().expand(n_targets)
        return torch.diag_embed(diagonal).index_put(
            tuple(below.to(params.device)), params[n_factors:-1]
        )

    def loss(params):
        m, log_diagonal = matrix(params), params[:n_factors].expand(n_targets)
        log_det, logit = log_diagonal.sum(), params[-1]
        log_wide, log_narrow = nn.functional.logsigmoid(torch.stack([logit, -logit]))
        # What 50 rows lose that the models are right about.
        total = spread_cost(-log_diagonal).sum()
        total = total + 0.5 * PRIOR_ROWS * params[n_factors:-1].square().sum()
        total = total - PRIOR_ROWS * torch.lerp(log_narrow, log_wide, WIDE_SHARE)
        for part in parts:
            t = (part.v2 - part.loc) * torch.exp(-part.log_scale) @ m.mT
            log_volume = log_det - part.log_scale.sum(-1)
            narrow, wide = (
                log_mean_exp(
                    noise.log_density(t / factor).sum(-1)
                    + (log_volume - n_targets * math.log(factor))
                )
                for factor in (1.0, WIDE)
            )
            found = torch.logaddexp(log_narrow + narrow, log_wide + wide)
            total = total - (part.weight * found).sum()
        return total

    @torch.enable_grad()
    def value_and_gradient(params):
        params = torch.from_numpy(params).to(like).requires_grad_()
        value = loss(params)
        (gradient,) = torch.autograd.grad(value, params)
        return value.item(), gradient.cpu().numpy()

    # Logarithms within 7, for the sake of errors of zero or without a limit.
    bounds = [(-7, 7)] * n_factors + [(None, None)] * below.shape[1] + [(-7, 7)]
    found = torch.from_numpy(minimize(value_and_gradient, start, jac=True, bounds=bounds).x)
    wide_share = float(found[-1].sigmoid())
    if not correlates:
        return -found[:n_factors].expand(n_targets), wide_share, None
    inverse = torch.linalg.inv(matrix(found))
    spread = (inverse @ inverse.mT).diagonal().sqrt()
    return spread.log(), wide_share, inverse / spread[:, None]


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
            v1 = rows.v1.double().to(next(joint.parameters()).device)
            logits = class_logits(joint, v1, draws)
            said = log_mean_exp(logits.log_softmax(-1)).exp()
            parts.append((logits, said, rows.label.to(v1.device), weight.to(v1)))
    n = sum(len(label) for _, _, label, _ in parts)
    if n < MIN_ROWS:
        return None

    def loss(log_factor):
        total = 0.0
        for logits, said, label, weight in parts:
            log_p = log_mean_exp((math.exp(log_factor) * logits).log_softmax(-1))
            chosen = log_p.gather(-1, label[:, None])[:, 0]
            total -= (weight * chosen).sum() + PRIOR_ROWS / n * (said * log_p).sum()
        return float(total)

    return np.array(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x)


def _some(rows, n):
    """Return at most n of the rows, whatever their order means."""
    n = max(MIN_ROWS, n)
    if len(rows) <= n:
        return rows
    generator = torch.Generator("cpu").manual_seed(len(rows))
    return rows.subset(torch.randperm(len(rows), generator=generator, device="cpu")[:n])


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
