"""What does a training step cost? The bounds of a stack with their gradient written out.

On small networks the bookkeeping of autograd costs as much as the arithmetic. The gradients of
a multi-layer perceptron, of a diagonal Gaussian, of its divergence from N(0, I) and of a mixture
of Gaussians are closed forms; here they are written down, once for all members of a stack. What
they compute is what :mod:`~skgvae.objectives` defines and autograd finds; only the order of
operations is another.

Letters: M members, K draws, n rows; (M, n, features) for what has no draws, (M, K, n, features)
for what has; g_y is the gradient of the loss with respect to y.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .nn import GaussianMLP, MixturePrior, StandardNormalPrior
from .objectives import Bound, elbo, importance_weighted_bound, predictive_bound, split_weight

__all__ = ["FUSED_BOUNDS", "fused_bound", "fused_mlp", "is_fusable", "is_fusable_vae"]

_aten = torch.ops.aten
# How many numbers the cache of a core holds. On the CPU an array of more than _KEPT is computed in
# such parts, and again for the gradient: that takes less time than to write it to new memory.
_IN_CACHE, _KEPT = 2**18, 2**22
_WHOLE = slice(None), slice(None)
# Each activation, and its gradient g given what went in (t) and what came out (h).
_ACTIVATIONS = {
    nn.Identity: (lambda t: t, lambda g, t, h: g),
    nn.Sigmoid: (torch.sigmoid, lambda g, t, h: _aten.sigmoid_backward(g, h)),
    nn.ReLU: (torch.relu, lambda g, t, h: _aten.threshold_backward(g, h, 0)),
    nn.GELU: (F.gelu, lambda g, t, h: _aten.gelu_backward(g, t)),
    nn.SiLU: (F.silu, lambda g, t, h: _aten.silu_backward(g, t)),
    nn.Tanh: (torch.tanh, lambda g, t, h: _aten.tanh_backward(g, h)),
}


def is_fusable(mlp: nn.Module) -> bool:
    """Whether the gradient of this network is known here."""
    if type(mlp) is not GaussianMLP:
        return False
    layers = list(mlp.hidden)  # a slice of a Sequential costs more
    activations = {type(layer) for layer in layers[1::2]}
    exact = all(getattr(layer, "approximate", "none") == "none" for layer in layers)
    return exact and len(activations) <= 1 and activations <= set(_ACTIVATIONS)


def is_fusable_vae(vae: nn.Module) -> bool:
    """Whether the gradient of a bound of this auto-encoder is known here."""
    return (
        is_fusable(vae.encoder)
        and vae.encoder.noise == "heteroscedastic"
        and is_fusable(vae.decoder)
        and type(vae.prior) in (StandardNormalPrior, MixturePrior)
    )


# A multi-layer perceptron


class _Plan(NamedTuple):
    """What a network is made of, besides its weights."""

    n_hidden: int
    activation: type
    linear: bool
    bounds: tuple[Tensor, Tensor] | None  # centre and half width of log σ; None: shared noise
    n_out: int

    @property
    def n_weights(self):
        return 2 * self.n_hidden + 2 + self.linear + 2 * (self.bounds is not None)


def _plan(mlp: GaussianMLP) -> tuple[_Plan, list[Tensor]]:
    """Return the plan of a network with stacked weights, and these."""
    layers = list(mlp.hidden)
    weights = [w for layer in layers[::2] for w in (layer.weight, layer.bias)]
    weights += [mlp.loc.weight, mlp.loc.bias]
    if mlp.linear is not None:
        weights.append(mlp.linear.weight)
    bounds = None
    if mlp.noise == "heteroscedastic":
        weights += [mlp.log_scale.weight, mlp.log_scale.bias]
        bounds = mlp.bound.centre, mlp.bound.half_width
        bounds = tuple(bound.view(len(mlp.loc.bias), 1, -1) for bound in bounds)
    activation = type(layers[1]) if layers else nn.Identity
    plan = _Plan(len(layers) // 2, activation, mlp.linear is not None, bounds, mlp.out_features)
    return plan, weights


def _shared_log_scale(mlp: GaussianMLP) -> Tensor:
    # Of shape (M, 1, features), with a gradient below the floor too.
    lift = (mlp.min_log_scale - mlp.shared_log_scale).clamp(min=0)
    return (mlp.shared_log_scale + lift.detach()).unsqueeze(-2)


def _affine(x, weight, bias):
    return torch.baddbmm(bias.unsqueeze(1), x, weight.mT)


def _mlp_forward(plan, x, weights):
    """Return μ, log σ (None for shared noise), and what the gradient needs."""
    function, _ = _ACTIVATIONS[plan.activation]
    h, states = x, []
    for i in range(plan.n_hidden):
        t = _affine(h, *weights[2 * i : 2 * i + 2])
        h = function(t)
        states += [t, h]
    heads = weights[2 * plan.n_hidden :]
    weight, bias = heads[:2]
    if plan.bounds is not None:  # both heads in one product
        weight, bias = torch.cat([weight, heads[-2]], 1), torch.cat([bias, heads[-1]], 1)
    out = _affine(h, weight, bias)
    loc = out[..., : plan.n_out]
    if plan.linear:
        loc = torch.baddbmm(loc, x, heads[2].mT)
    if plan.bounds is None:
        return loc, None, [x, weight, *states]
    centre, half_width = plan.bounds
    squashed = out[..., plan.n_out :].sub(centre).div_(half_width).tanh_()
    log_scale = torch.addcmul(centre, half_width, squashed)
    return loc, log_scale, [x, weight, *states, squashed]


def _mlp_backward(plan, saved, weights, g_loc, g_log_scale, needs_x):
    """Return the gradients of x (None unless needed) and of the weights."""
    _, derivative = _ACTIVATIONS[plan.activation]
    x, weight, *states = saved
    g = g_loc
    if plan.bounds is not None:
        g = torch.cat([g_loc, _aten.tanh_backward(g_log_scale, states[-1])], -1)
    h = states[2 * plan.n_hidden - 1] if plan.n_hidden else x
    g_weight, g_bias = torch.bmm(g.mT, h), g.sum(1)
    heads = [g_weight[:, : plan.n_out], g_bias[:, : plan.n_out]]
    if plan.linear:
        heads.append(torch.bmm(g_loc.mT, x))
    if plan.bounds is not None:
        heads += [g_weight[:, plan.n_out :], g_bias[:, plan.n_out :]]
    g_x = torch.bmm(g, weight) if plan.n_hidden or needs_x else None
    layers = []
    for i in reversed(range(plan.n_hidden)):
        t, h = states[2 * i : 2 * i + 2]
        below = states[2 * i - 1] if i else x
        g = derivative(g_x, t, h)
        layers = [torch.bmm(g.mT, below), g.sum(1), *layers]
        g_x = torch.bmm(g, weights[2 * i]) if i or needs_x else None
    if needs_x and plan.linear:
        g_x = torch.baddbmm(g_x, g_loc, weights[2 * plan.n_hidden + 2])
    return g_x, [*layers, *heads]


def fused_mlp(mlp: GaussianMLP, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return μ and log σ of all members.

    Parameters
    ----------
    mlp : GaussianMLP
        Its weights have the members as their first axis.
    x : Tensor of shape (*, M, n, in_features)
        Input, (*) are draws.
    """
    draws = x.shape[:-3]
    plan, weights = _plan(mlp)
    out = _FusedMLP.apply(plan, x.movedim(-3, 0).flatten(1, -2), *weights)
    out = [part.unflatten(1, (*draws, x.shape[-2])).movedim(0, -3) for part in out]
    return (*out, _shared_log_scale(mlp)) if plan.bounds is None else tuple(out)


class _FusedMLP(torch.autograd.Function):
    @staticmethod
    def forward(ctx, plan, x, *weights):
        loc, log_scale, saved = _mlp_forward(plan, x, weights)
        ctx.plan = plan
        ctx.save_for_backward(*saved, *weights)
        return (loc,) if log_scale is None else (loc, log_scale)

    @staticmethod
    @once_differentiable
    def backward(ctx, g_loc, g_log_scale=None):
        saved, weights = _split(ctx.saved_tensors, -ctx.plan.n_weights)
        needs_x = ctx.needs_input_grad[1]
        g_x, g_weights = _mlp_backward(ctx.plan, saved, weights, g_loc, g_log_scale, needs_x)
        return None, g_x, *g_weights


# A mixture of Gaussians as prior


def _mixture_weights(prior: nn.Module) -> list[Tensor]:
    """Return the stacked parameters of a mixture, none for N(0, I)."""
    if type(prior) is StandardNormalPrior:
        return []
    return [prior.logits, prior.means, prior.log_scale, prior.coefficients]


def _blocks(z, n_columns):
    """Return pairs of slices, of members and of rows: parts of an array of so many columns."""
    n_members, n_rows, _ = z.shape
    size, in_cache = n_rows * n_columns, _IN_CACHE * torch.get_num_threads()
    members = _slices(n_members, max(1, in_cache // size))
    rows = _slices(n_rows, math.ceil(n_rows / math.ceil(size / in_cache)))
    return itertools.product(members, rows)


def _slices(n, step):
    return [slice(start, start + step) for start in range(0, n, step)]


def _scaled(z, factor, offset, block):
    # z in the units of each component, all of them in one product: (M, K n, C, latent).
    members, _ = block
    scaled = torch.baddbmm(offset[members], z[block], factor[members].flatten(1, 2).mT, beta=-1)
    return scaled.unflatten(-1, factor.shape[1:3])


def _scaled_by_blocks(kept, z, factor, offset):
    """Yield each block and z there in the units of each component: what is kept, or anew."""
    if kept:
        yield _WHOLE, kept[0]
        return
    for block in _blocks(z, offset.shape[-1]):
        yield block, _scaled(z, factor, offset, block)


def _mixture_forward(z, logits, means, log_scale, coefficients):
    """Return log p(z) of z of shape (M, K n, latent), and what the gradient needs.

    log p(z) is without the constant -latent/2 log 2π.
    """
    n_members, n_components, n_latent = means.shape
    identity = torch.eye(n_latent, dtype=z.dtype, device=z.device)
    factor = (identity - coefficients.tril(-1)) * torch.exp(-log_scale).unsqueeze(-1)
    offset = (factor @ means.unsqueeze(-1)).view(n_members, 1, -1)
    is_kept = z.device.type != "cpu" or z[..., 0].numel() * offset.shape[-1] <= _KEPT
    kept = [_scaled(z, factor, offset, _WHOLE)] if is_kept else []
    log_peaks = (logits.log_softmax(-1) - log_scale.sum(-1)).unsqueeze(1)
    log_joint = z.new_empty(*z.shape[:2], n_components)
    for block, scaled in _scaled_by_blocks(kept, z, factor, offset):
        # A norm needs no array of squares.
        square = torch.linalg.vector_norm(scaled, dim=-1).square_()
        torch.add(log_peaks[block[0]], square, alpha=-0.5, out=log_joint[block])
    return log_joint.logsumexp(-1), [z, factor, offset, log_joint.softmax(-1), *kept]


def _mixture_backward(saved, g, logits, means, log_scale, coefficients):
    """Return the gradients of z and of the parameters, given that of log p(z)."""
    z, factor, offset, share, *kept = saved
    g_share = share * g.unsqueeze(-1)  # (M, K n, C)
    g_z, g_offset = torch.empty_like(z), torch.zeros_like(offset)
    g_factor = torch.zeros_like(factor).flatten(1, 2)
    for block, scaled in _scaled_by_blocks(kept, z, factor, offset):
        members, _ = block
        g_scaled = (scaled * g_share[block].neg().unsqueeze(-1)).flatten(-2)
        g_offset[members] += g_scaled.sum(1, keepdim=True)
        g_factor[members].baddbmm_(g_scaled.mT, z[block])
        g_z[block] = torch.bmm(g_scaled, factor[members].flatten(1, 2))
    g_offset, g_factor = g_offset.view_as(means), g_factor.view_as(factor)
    g_factor = torch.addcmul(g_factor, g_offset.unsqueeze(-1), means.unsqueeze(-2), value=-1)
    g_component = g_share.sum(1)
    g_log_scale = -(g_factor * factor).sum(-1) - g_component.unsqueeze(-1)
    return g_z, [
        g_component - logits.softmax(-1) * g_component.sum(-1, keepdim=True),
        -(factor.mT @ g_offset.unsqueeze(-1)).squeeze(-1),
        g_log_scale,
        (g_factor * torch.exp(-log_scale).unsqueeze(-1)).tril_(-1).neg_(),
    ]


# A bound of an auto-encoder


class _Objective(NamedTuple):
    """Which bound, and its parameters."""

    name: str
    kl_weight: Tensor | float  # a tensor: of shape (M, 1)
    mean_power: float


FUSED_BOUNDS = {
    elbo: "elbo",
    importance_weighted_bound: "importance_weighted",
    predictive_bound: "predictive",
}


def fused_bound(
    bound, vae: nn.Module, v1: Tensor, v2: Tensor, eps: Tensor, kl_weight, mean_power: float = 0.0
) -> Bound:
    """Return ``bound(vae, v1, v2, eps, kl_weight, ...)`` for a stack; its value has a gradient.

    Parameters
    ----------
    bound : callable
        :func:`~skgvae.objectives.elbo`, :func:`~skgvae.objectives.importance_weighted_bound` or
        :func:`~skgvae.objectives.predictive_bound`.
    vae : GaussianVAEModule
        Its weights have the members as their first axis.
    v1 : Tensor of shape (M, n, in_features)
        Input.
    v2 : Tensor of shape (M, n, out_features)
        Target.
    eps : Tensor of shape (K, M, n, latent_features)
        Standard normal draws.
    kl_weight, mean_power
        As there.
    """
    objective = _Objective(FUSED_BOUNDS[bound], kl_weight, mean_power)
    (encoder, encoder_weights), (decoder, decoder_weights) = map(_plan, (vae.encoder, vae.decoder))
    shared = _shared_log_scale(vae.decoder) if decoder.bounds is None else None
    plan = objective, encoder, decoder
    rows = v1, v2, eps.transpose(0, 1)
    weights = *encoder_weights, *decoder_weights, *_mixture_weights(vae.prior)
    return Bound(*_FusedBound.apply(plan, *rows, shared, *weights))


class _FusedBound(torch.autograd.Function):
    @staticmethod
    def forward(ctx, plan, v1, v2, eps, shared, *weights):
        objective, encoder, decoder = plan
        encoder_weights, rest = _split(weights, encoder.n_weights)
        decoder_weights, mixture = _split(rest, decoder.n_weights)
        m, log_s, encoder_saved = _mlp_forward(encoder, v1, encoder_weights)
        s = log_s.exp()
        z = torch.addcmul(m.unsqueeze(1), s.unsqueeze(1), eps)  # (M, K, n, latent)
        mu, log_sigma, decoder_saved = _mlp_forward(decoder, z.flatten(1, 2), decoder_weights)
        mu = mu.view(*z.shape[:3], mu.shape[-1])
        log_sigma = shared.unsqueeze(1) if log_sigma is None else log_sigma.view_as(mu)

        inverse = torch.exp(-log_sigma)
        residual = (v2.unsqueeze(1) - mu).mul_(inverse)
        n_out = mu.shape[-1]
        log_det = log_sigma.sum(-1) if log_sigma.shape[-1] == n_out else n_out * log_sigma[..., 0]
        log_lik = residual.square().sum(-1).mul_(-0.5).sub_(log_det)
        log_lik -= 0.5 * n_out * math.log(2 * math.pi)  # (M, K, n)
        variance = s.square()
        log_ratio, mixture_saved = None, []  # log p(z) - log q(z | v1), where it is needed
        if mixture or objective.name == "importance_weighted":
            if mixture:
                log_prior, mixture_saved = _mixture_forward(z.flatten(1, 2), *mixture)
                log_prior = log_prior.view_as(log_lik)
            else:
                log_prior = -0.5 * z.square().sum(-1)
            # Both without the constant that they share.
            log_ratio = log_prior + 0.5 * eps.square().sum(-1) + log_s.sum(-1).unsqueeze(1)
        if mixture:
            kl = -log_ratio.mean(1)
        else:
            kl = torch.addcmul(variance, m, m).sub_(1).mul_(0.5).sub_(log_s).sum(-1)

        value, share, prior_share, kl_share = _combine(objective, log_lik, kl, log_ratio)
        if mixture:  # the divergence is an average over the draws
            prior_share = kl_share / z.shape[1] + (0.0 if prior_share is None else prior_share)
            prior_share, kl_share = torch.zeros_like(log_lik) + prior_share, 0.0
        ctx.plan, ctx.kl_share, ctx.n_saved = plan, kl_share, len(encoder_saved)
        ctx.n_mixture, ctx.n_mixture_saved = len(mixture), len(mixture_saved)
        ctx.save_for_backward(
            m, s, variance, eps, z, residual, inverse, share, prior_share,
            *encoder_saved, *mixture_saved, *decoder_saved, *weights,
        )  # fmt: skip
        reconstruction = -log_lik.mean(1)
        ctx.mark_non_differentiable(reconstruction, kl)
        ctx.set_materialize_grads(False)
        return value, reconstruction, kl

    @staticmethod
    @once_differentiable
    def backward(ctx, g_value, *_):
        objective, encoder, decoder = ctx.plan
        n_weights = encoder.n_weights + decoder.n_weights + ctx.n_mixture
        saved, weights = _split(ctx.saved_tensors, -n_weights)
        first, saved = _split(saved, 9)
        m, s, variance, eps, z, residual, inverse, share, prior_share = first
        encoder_saved, saved = _split(saved, ctx.n_saved)
        mixture_saved, decoder_saved = _split(saved, ctx.n_mixture_saved)
        encoder_weights, weights = _split(weights, encoder.n_weights)
        decoder_weights, mixture = _split(weights, decoder.n_weights)

        g = (share * g_value.unsqueeze(1)).unsqueeze(-1)  # of log p(v2 | z): (M, K, n, 1)
        g_mu = residual * inverse
        if objective.mean_power:
            g_mu *= _mean_factor(inverse, g_mu, objective.mean_power)
        g_mu *= g
        g_log_sigma = residual.square().sub_(1).mul_(g)
        g_shared = None
        if decoder.bounds is None:
            g_shared = g_log_sigma.sum((1, 2)).unsqueeze(1)  # (M, 1, features)
            if inverse.shape[-1] == 1:
                g_shared = g_shared.sum(-1, keepdim=True)
        rows = (part.flatten(1, 2) for part in (g_mu, g_log_sigma))
        g_z, g_decoder = _mlp_backward(decoder, decoder_saved, decoder_weights, *rows, True)
        g_z = g_z.view_as(z)

        kl_share = g_value.unsqueeze(-1) * -ctx.kl_share
        g_m, g_log_s = kl_share * m, kl_share * (variance - 1)
        g_mixture = []
        if prior_share is not None:  # log p(z) - log q(z | v1)
            g_prior = prior_share * g_value.unsqueeze(1)
            g_log_s += g_prior.sum(1).unsqueeze(-1)
            if mixture:
                g, g_mixture = _mixture_backward(mixture_saved, g_prior.flatten(1), *mixture)
                g_z += g.view_as(z)
            else:
                g_z -= g_prior.unsqueeze(-1) * z
        g_m += g_z.sum(1)
        g_log_s += (g_z * eps).sum(1).mul_(s)
        _, g_encoder = _mlp_backward(encoder, encoder_saved, encoder_weights, g_m, g_log_s, False)
        return None, None, None, None, g_shared, *g_encoder, *g_decoder, *g_mixture


def _combine(objective, log_lik, kl, log_ratio):
    """Return the bound and its derivatives: by log p(v2 | z), log p(z) / q(z | v1), and -KL."""
    name, weight, _ = objective
    n_draws = log_lik.shape[1]
    if isinstance(weight, Tensor):
        weight = weight.unsqueeze(-1) if weight.ndim == 1 else weight
    if name == "elbo":
        value = log_lik.mean(1) - weight * kl
        return value, torch.full_like(log_lik, 1 / n_draws), None, _rows_first(weight)
    if name == "predictive":
        value = torch.logsumexp(log_lik, 1) - math.log(n_draws) - weight * kl
        return value, log_lik.softmax(1), None, _rows_first(weight)
    log_w = log_ratio + log_lik
    value, share = torch.logsumexp(log_w, 1) - math.log(n_draws), log_w.softmax(1)
    if not isinstance(weight, Tensor) and weight == 1:
        return value, share, share, 0.0
    below, above = split_weight(weight)
    value = below * value + (1 - below) * log_lik.mean(1) - above * kl
    below, above = _rows_first(below), _rows_first(above)
    prior_share = below * share
    return value, prior_share + (1 - below) / n_draws, prior_share, above


def _rows_first(weight):
    return weight.unsqueeze(-1) if isinstance(weight, Tensor) and weight.ndim else weight


def _mean_factor(inverse, like, power):
    # σ to the power 2 b, relative to its average over draws and rows.
    factor = inverse.pow(-2 * power).expand_as(like)
    return factor / factor.mean((1, 2), keepdim=True)


def _split(items, n):
    return items[:n], items[n:]
