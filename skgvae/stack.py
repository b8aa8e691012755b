"""How are many trained at once? Modules of one architecture, called as one.

A step of a small network is overhead, not arithmetic: several of them cost little more than
one when their weights are stacked. The modules themselves know nothing of it. Tensors that
belong to all members have the stack as their third axis from the right: rows of shape
(*, M, n, features), of which (*) are draws.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from .fused import FUSED_BOUNDS, fused_bound, fused_mlp, is_fusable, is_fusable_vae
from .nn import StandardNormalPrior
from .objectives import NegativeBound

__all__ = ["ModuleStack"]


class ModuleStack(nn.Module):
    """M modules of one architecture with their weights in common tensors.

    Member m keeps its own parameters: they are views of row m of the stacked ones, so that
    each is always up to date in the other. A stack has the parts of its members (``encoder``,
    ``decoder``, ``prior``, ``classify``), so that an objective is written once for both.

    A member with an attribute ``n_used_latents`` is padded: its other latents are to do nothing
    (:meth:`pad_draws`, :meth:`mask_gradients_`).

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
        # Tuples, not registered: their weights are those of the stack.
        self.all_members = self.members = tuple(members)
        self.stacked = copy.deepcopy(members[0])
        places = _places(self.stacked)
        for name, tensors in _named_tensors(members):
            owner, attribute = _owner(self.stacked, name)
            if len(members) == 1 and _is_alone(tensors[0]):  # no copy
                stacked = tensors[0].detach().unsqueeze(0)
            else:
                stacked = torch.stack([t.detach() for t in tensors])
            if attribute in owner._parameters:
                stacked = nn.Parameter(stacked, requires_grad=tensors[0].requires_grad)
            for place in places[id(getattr(owner, attribute))]:
                _set(*place, stacked)
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

    def by_rows(
        self, criterion: nn.Module, v1: Tensor, v2: Tensor, eps: Tensor, *others: Tensor | None
    ) -> NamedTuple:
        """Return ``criterion.by_rows(self, ...)``, by the shortest way.

        Parameters
        ----------
        criterion : NegativeBound or JointLoss
            The loss.
        v1, v2 : Tensor of shape (M, n, features)
            Input and target.
        eps : Tensor of shape (K, M, n, features)
            Standard normal draws.
        *others : Tensor of shape (M, n) or None
            What else the criterion takes.

        Returns
        -------
        LossTerms or JointTerms
            Each of shape (M, n).
        """
        known = type(criterion) is NegativeBound and criterion.bound in FUSED_BOUNDS
        if not known or not is_fusable_vae(self.members[0]):
            return criterion.by_rows(self, v1, v2, eps, *others)
        params = {"kl_weight": criterion.kl_weight, **criterion.params}
        bound = fused_bound(criterion.bound, self.stacked, v1, v2, eps, **params)
        return criterion.weigh(bound, *others)

    def classify(self, v1: Tensor, v2_estimate: Tensor) -> Tensor:
        """Return the logits of all members, of shape (*, M, n, n_classes)."""
        axis = v2_estimate.ndim - 3
        return _call_members(
            self.members, self.stacked, "classify", (v1, v2_estimate), (0, axis), axis
        )

    def squared_weights(self) -> Tensor:
        """Return the sum of the squared weights of each member's classifier, of shape (M,)."""
        return _call_members(self.members, self.stacked, "squared_weights", (), (), 0)

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield name and tensor of all stacked parameters and buffers."""
        yield from self.stacked.named_parameters()
        yield from self.stacked.named_buffers()

    def pad_draws(self, eps: Sequence[Tensor]) -> list[Tensor]:
        """Return draws for all members, with zeros for latents that a member does not use.

        Parameters
        ----------
        eps : sequence of Tensor of shape (*, features)
            Of each member; its latents come first.
        """
        if self._used is None:
            return list(eps)
        n_latents = self._used.shape[-1]
        padded = []
        for n, own in zip(self.n_used_latents, eps, strict=True):
            zeros = own.new_zeros(*own.shape[:-1], n_latents - n)
            padded.append(torch.cat([own[..., :n], zeros, own[..., n:]], -1))
        return padded

    @torch.no_grad()
    def mask_gradients_(self) -> None:
        """Set gradients to zero where they would change what a latent that is not used is.

        The others are zero because its draws are, and the weights on them.
        """
        if self._used is None:
            return
        encoder, prior = self.stacked.encoder, self.stacked.prior
        scales = [(encoder.log_scale.weight, -1), (encoder.log_scale.bias, None)]
        if hasattr(prior, "log_scale"):
            scales.append((prior.log_scale, 1))
        for scale, axis in scales:
            if scale.grad is not None:
                scale.grad *= self._used if axis is None else self._used.unsqueeze(axis)

    @torch.no_grad()
    def keep_(self, rows: Tensor) -> None:
        """Go on with these members alone; parameters stay the objects that they are."""
        self.members = tuple(self.members[i] for i in rows.tolist())
        for _, tensor in self.named_tensors():
            tensor.data = tensor.data[rows]
        self.tie()

    @torch.no_grad()
    def restore_(self, state: dict[str, Tensor]) -> None:
        """Put all members back, with these weights for :meth:`named_tensors`."""
        self.members = self.all_members
        for name, tensor in self.named_tensors():
            tensor.data = state[name]
            tensor.grad = None
        self.tie()

    @torch.no_grad()
    def tie(self) -> None:
        """Make the members' weights views of the stacked ones."""
        for name, tensors in _named_tensors(self.members):
            stacked = getattr(*_owner(self.stacked, name))
            for m, tensor in enumerate(tensors):
                tensor.data = stacked.detach()[m]
        self._find_used_latents()

    def _find_used_latents(self):
        n_latents = self.stacked.encoder.out_features
        self.n_used_latents = [getattr(m, "n_used_latents", n_latents) for m in self.members]
        self._used = None  # of shape (M, latents), where some are not
        if min(self.n_used_latents) < n_latents:
            device = self.stacked.encoder.loc.weight.device
            n_used = torch.tensor(self.n_used_latents, device=device).unsqueeze(1)
            self._used = torch.arange(n_latents, device=device) < n_used


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
        if is_fusable(mlp):
            return fused_mlp(self.stacked, x)
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


def _named_tensors(members):
    # Parameters and buffers: name, and the tensor of each member.
    for kind in ("named_parameters", "named_buffers"):
        named = [dict(getattr(member, kind)()) for member in members]
        for name in named[0]:
            yield name, [tensors[name] for tensors in named]


def _places(module):
    # Where each parameter and buffer stands: a shared one in several places.
    places = {}
    for kind in (module.named_parameters, module.named_buffers):
        for name, tensor in kind(remove_duplicate=False):
            places.setdefault(id(tensor), []).append(_owner(module, name))
    return places


def _is_alone(tensor):
    # Not a view of a larger stack, which would then be kept.
    return tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def _owner(module, name):
    path, _, attribute = name.rpartition(".")
    return module.get_submodule(path), attribute


def _set(owner, attribute, tensor):
    kind = owner._parameters if attribute in owner._parameters else owner._buffers
    kind[attribute] = tensor
