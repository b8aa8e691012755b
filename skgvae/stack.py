"""How are many trained at once? Modules of one architecture, called as one.

A step of a small network is overhead, not arithmetic: several of them cost little more than
one when their weights are stacked. The modules themselves know nothing of it. Tensors that
belong to all members have the stack as their third axis from the right: rows of shape
(*, M, n, features), of which (*) are draws.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from operator import attrgetter

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call, vmap
from torch.nn import functional as F

from .nn import GaussianMLP, StandardNormalPrior

__all__ = ["ModuleStack"]

_aten = torch.ops.aten
# Each activation, and its gradient g given what went in (t) and what came out (h).
_ACTIVATIONS = {
    nn.Identity: (lambda t: t, lambda g, t, h: g),
    nn.Sigmoid: (torch.sigmoid, lambda g, t, h: _aten.sigmoid_backward(g, h)),
    nn.ReLU: (torch.relu, lambda g, t, h: _aten.threshold_backward(g, h, 0)),
    nn.GELU: (F.gelu, lambda g, t, h: _aten.gelu_backward(g, t)),
    nn.SiLU: (F.silu, lambda g, t, h: _aten.silu_backward(g, t)),
    nn.Tanh: (torch.tanh, lambda g, t, h: _aten.tanh_backward(g, h)),
}


class ModuleStack(nn.Module):
    """M modules of one architecture with their weights in common tensors.

    Member m keeps its own parameters: they are views of row m of the stacked ones, so that
    each is always up to date in the other. A stack has the parts of its members (``encoder``,
    ``decoder``, ``prior``, ``classify``), so that an objective is written once for both.

    Parameters
    ----------
    members : sequence of nn.Module
        :class:`~skgvae.nn.GaussianVAEModule` or alike, on one device.

    Examples
    --------
    >>> import torch
    >>> from skgvae.nn import GaussianVAEModule
    >>> from skgvae.objectives import elbo
    >>> from skgvae.stack import ModuleStack
    >>> stack = ModuleStack([GaussianVAEModule(4, 2) for _ in range(3)])
    >>> v1, eps = torch.zeros(3, 10, 4), torch.randn(5, 3, 10, 2)
    >>> elbo(stack, v1, v1, eps).value.shape
    torch.Size([3, 10])
    """

    def __init__(self, members: Sequence[nn.Module]):
        super().__init__()
        self.members = tuple(members)  # not registered: their weights are those of the stack
        self.stacked = copy.deepcopy(members[0])
        for name, tensors in _named_tensors(members):
            owner, attribute = _owner(self.stacked, name)
            if len(members) == 1:
                stacked = tensors[0].detach().unsqueeze(0)
            else:
                stacked = torch.stack([t.detach() for t in tensors])
            if attribute in owner._parameters:
                stacked = nn.Parameter(stacked, requires_grad=tensors[0].requires_grad)
            _set(owner, attribute, stacked)
        self.tie()

    def __len__(self) -> int:
        return len(self.members)

    def __setstate__(self, state):
        super().__setstate__(state)
        self.tie()  # copies share no memory

    def train(self, mode: bool = True) -> ModuleStack:
        """Set the mode of all members."""
        for member in self.members:
            member.train(mode)
        return super().train(mode)

    @property
    def encoder(self) -> _Part:
        """q(z | v1) of all members."""
        return _Part(self, "encoder")

    @property
    def decoder(self) -> _Part:
        """p(v2 | z) of all members."""
        return _Part(self, "decoder")

    @property
    def prior(self) -> _Part:
        """p(z) of all members."""
        return _Part(self, "prior")

    def classify(self, v1: Tensor, v2_estimate: Tensor) -> Tensor:
        """Return the logits of all members, of shape (*, M, n, n_classes)."""
        axis = v2_estimate.ndim - 3
        return _call_members(
            self.members, self.stacked, "classify", (v1, v2_estimate), (0, axis), axis
        )

    def squared_weights(self) -> Tensor:
        """Return the sum of the squared weights of each member's classifier, of shape (M,)."""
        return _call_members(self.members, self.stacked, "squared_weights", (), (), 0)

    @torch.no_grad()
    def tie(self) -> None:
        """Make the members' weights views of the stacked ones."""
        for name, tensors in _named_tensors(self.members):
            stacked = getattr(*_owner(self.stacked, name))
            for m, tensor in enumerate(tensors):
                tensor.data = stacked.detach()[m]


class _Part:
    """One part of every member, called as one."""

    def __init__(self, stack: ModuleStack, name: str):
        part = attrgetter(name)
        self.parts = [part(member) for member in stack.members]
        self.stacked = part(stack.stacked)

    def __getattr__(self, name: str):
        return getattr(self.stacked, name)  # out_features, noise, ...

    def loc_and_log_scale(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mlp, axis = self.parts[0], x.ndim - 3
        if _is_fusable(mlp):
            return _fused(self.stacked, x)
        method = "loc_and_log_scale"
        loc, log_scale = self._call(method, (x,), (axis,), (axis, axis), _broadcast_scale)
        return loc, log_scale

    def log_prob(self, z: Tensor) -> Tensor:
        if type(self.parts[0]) is StandardNormalPrior:
            return self.parts[0].log_prob(z)
        axis = z.ndim - 3
        return self._call("log_prob", (z,), (axis,), axis)

    def kl(self, loc: Tensor, log_scale: Tensor, z: Tensor) -> Tensor:
        if type(self.parts[0]) is StandardNormalPrior:
            return self.parts[0].kl(loc, log_scale, z)
        axes = 0, log_scale.ndim - 3, z.ndim - 3
        return self._call("kl", (loc, log_scale, z), axes, 0)

    def _call(self, method, args, in_axes, out_axes, wrap=lambda out: out):
        return _call_members(self.parts, self.stacked, method, args, in_axes, out_axes, wrap)


class _Method(nn.Module):
    # functional_call knows forward alone.
    def __init__(self, module: nn.Module, name: str, wrap: Callable):
        super().__init__()
        self.module, self.name, self.wrap = module, name, wrap

    def forward(self, *args):
        return self.wrap(getattr(self.module, self.name)(*args))


def _call_members(members, stacked, name, args, in_axes, out_axes, wrap=lambda out: out):
    """Call a method of every member, with the stack as these axes of arguments and result."""
    method = _Method(members[0], name, wrap)
    tensors = {
        f"module.{name}": tensor
        for named in (stacked.named_parameters(), stacked.named_buffers())
        for name, tensor in named
    }
    if len(members) > 1:

        def call(tensors, *args):
            return functional_call(method, tensors, args)

        axes = (0, *in_axes)
        return vmap(call, axes, out_axes, randomness="different")(tensors, *args)
    # One member: plain, also for modules that vmap cannot map.
    tensors = {name: tensor[0] for name, tensor in tensors.items()}
    args = [arg.select(axis, 0) for arg, axis in zip(args, in_axes, strict=True)]
    out = functional_call(method, tensors, tuple(args))
    if isinstance(out, Tensor):
        return out.unsqueeze(out_axes)
    return tuple(part.unsqueeze(axis) for part, axis in zip(out, out_axes, strict=True))


def _broadcast_scale(out):
    loc, log_scale = out
    return loc, log_scale.expand_as(loc)


# A multi-layer perceptron of all members as one operation. Its gradient is written out: on
# small networks the bookkeeping of autograd costs as much as the arithmetic.


def _is_fusable(mlp: nn.Module) -> bool:
    if type(mlp) is not GaussianMLP:
        return False
    activations = {type(layer) for layer in mlp.hidden[1::2]}
    exact = all(getattr(layer, "approximate", "none") == "none" for layer in mlp.hidden)
    return exact and len(activations) <= 1 and activations <= set(_ACTIVATIONS)


def _fused(mlp: GaussianMLP, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return μ and log σ of all members, given a network with stacked weights."""
    n_draws = x.shape[:-3]
    rows = x.movedim(-3, 0).flatten(1, -2)  # (M, n, in_features)
    layers = list(mlp.hidden)
    weights = [w for layer in layers[::2] for w in (layer.weight, layer.bias)]
    weights += [mlp.loc.weight, mlp.loc.bias]
    if mlp.linear is not None:
        weights.append(mlp.linear.weight)
    bounds = None
    if mlp.noise == "heteroscedastic":
        weights += [mlp.log_scale.weight, mlp.log_scale.bias]
        n_members = len(mlp.loc.bias)
        bounds = (mlp.bound.centre, mlp.bound.half_width)
        bounds = tuple(bound.view(n_members, 1, -1) for bound in bounds)
    activation = type(layers[1]) if layers else nn.Identity
    plan = len(layers) // 2, activation, mlp.linear is not None, bounds
    out = _FusedMLP.apply(plan, rows, *weights)
    out = [part.unflatten(1, (*n_draws, -1)).movedim(0, -3) for part in out]
    if bounds is None:
        lift = (mlp.min_log_scale - mlp.shared_log_scale).clamp(min=0)
        out.append((mlp.shared_log_scale + lift.detach()).unsqueeze(-2))  # (M, 1, features)
    return tuple(out)


class _FusedMLP(torch.autograd.Function):
    @staticmethod
    def forward(ctx, plan, x, *weights):
        n_hidden, activation, linear, bounds = plan
        function, _ = _ACTIVATIONS[activation]
        h, states = x, []
        for i in range(n_hidden):
            t = _affine(h, *weights[2 * i : 2 * i + 2])
            h = function(t)
            states += [t, h]
        heads = weights[2 * n_hidden :]
        weight, bias = heads[:2]
        if bounds is not None:  # both heads in one product
            weight, bias = torch.cat([weight, heads[-2]], 1), torch.cat([bias, heads[-1]], 1)
        out = _affine(h, weight, bias)
        n_out = heads[0].shape[1]
        loc = out[..., :n_out]
        if linear:
            loc = torch.baddbmm(loc, x, heads[2].mT)
        ctx.plan = plan
        if bounds is None:
            ctx.save_for_backward(x, weight, *states, *weights)
            return (loc,)
        centre, half_width = bounds
        squashed = out[..., n_out:].sub(centre).div_(half_width).tanh_()
        ctx.save_for_backward(x, weight, *states, *weights, squashed)
        return loc, torch.addcmul(centre, half_width, squashed)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        n_hidden, activation, linear, bounds = ctx.plan
        _, derivative = _ACTIVATIONS[activation]
        x, weight, *saved = ctx.saved_tensors
        states, weights = saved[: 2 * n_hidden], saved[2 * n_hidden :]
        needs_x = ctx.needs_input_grad[1]
        g_loc = g = grads[0]
        if bounds is not None:
            g = torch.cat([g_loc, _aten.tanh_backward(grads[1], weights[-1])], -1)
        h = states[-1] if n_hidden else x
        g_weight, g_bias = torch.bmm(g.mT, h), g.sum(1)
        n_out = g_loc.shape[-1]
        heads = [g_weight[:, :n_out], g_bias[:, :n_out]]
        if linear:
            heads.append(torch.bmm(g_loc.mT, x))
        if bounds is not None:
            heads += [g_weight[:, n_out:], g_bias[:, n_out:]]
        g_x = torch.bmm(g, weight) if n_hidden or needs_x else None
        layers = []
        for i in reversed(range(n_hidden)):
            t, h = states[2 * i : 2 * i + 2]
            below = states[2 * i - 1] if i else x
            g = derivative(g_x, t, h)
            layers = [torch.bmm(g.mT, below), g.sum(1), *layers]
            g_x = torch.bmm(g, weights[2 * i]) if i or needs_x else None
        if needs_x and linear:
            g_x = torch.baddbmm(g_x, g_loc, weights[2 * n_hidden + 2])
        return None, g_x, *layers, *heads


def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.baddbmm(bias.unsqueeze(1), x, weight.mT)


def _named_tensors(members):
    # Parameters and buffers: name, and the tensor of each member.
    for kind in ("named_parameters", "named_buffers"):
        named = [dict(getattr(member, kind)()) for member in members]
        for name in named[0]:
            yield name, [tensors[name] for tensors in named]


def _owner(module, name):
    path, _, attribute = name.rpartition(".")
    return module.get_submodule(path), attribute


def _set(owner, attribute, tensor):
    kind = owner._parameters if attribute in owner._parameters else owner._buffers
    kind[attribute] = tensor
