"""How are many trained at once? Modules of one architecture, called as one.

A step of a small network is overhead, not arithmetic: several of them cost little more than
one when their weights are stacked. Tensors that belong to all models have the models as their
first axis: rows of shape (M, n, features), draws of shape (M, K, n, features).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from operator import attrgetter

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .nn import takes_model_axis

__all__ = ["ModuleStack"]


class ModuleStack(nn.Module):
    """M modules of one architecture with their weights in common tensors.

    Member m keeps its own parameters: they are views of row m of the stacked ones, so that
    each is always up to date in the other. A stack has the parts of its members (``encoder``,
    ``decoder``, ``prior``, ``classify``), so that an objective is written once for both. A part
    that knows nothing of a model axis, such as a user's own network, is called in a loop.

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
    >>> v1, eps = torch.zeros(3, 10, 4), torch.randn(3, 5, 10, 2)
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
    def encoder(self) -> nn.Module:
        """q(z | v1) of all members."""
        return self._part("encoder")

    @property
    def decoder(self) -> nn.Module:
        """p(v2 | z) of all members."""
        return self._part("decoder")

    @property
    def prior(self) -> nn.Module:
        """p(z) of all members."""
        return self._part("prior")

    def classify(self, v1: Tensor, v2_estimate: Tensor) -> Tensor:
        """Return the logits of all members, of shape (M, [K,] n, n_classes)."""
        return self._joint().classify(v1, v2_estimate)

    def squared_weights(self) -> Tensor:
        """Return the sum of the squared weights of each member's classifier, of shape (M,)."""
        return self._joint().squared_weights()

    def _joint(self):
        aware = takes_model_axis(self.stacked.classifier)
        return self.stacked if aware else _EachInTurn(self.members, self.stacked)

    def _part(self, name):
        stacked = getattr(self.stacked, name)
        if takes_model_axis(stacked):
            return stacked
        return _EachInTurn([getattr(member, name) for member in self.members], stacked)

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield name and tensor of all stacked parameters and buffers."""
        yield from self.stacked.named_parameters()
        yield from self.stacked.named_buffers()

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


class _EachInTurn:
    """A part of every member, called one after the other."""

    def __init__(self, parts: Sequence[nn.Module], stacked: nn.Module):
        self.parts, self.stacked = parts, stacked

    def __getattr__(self, name: str):
        if not callable(getattr(type(self.stacked), name, None)):
            return getattr(self.stacked, name)  # out_features, noise, ...

        def call(*args):
            outs = [self._call(m, name, args) for m in range(len(self.parts))]
            if isinstance(outs[0], Tensor):
                return torch.stack(outs)
            return tuple(torch.stack(out) for out in zip(*map(_broadcast, outs), strict=True))

        return call

    def _call(self, m, name, args):
        tensors = {f"module.{key}": t[m] for key, t in self.stacked.named_parameters()}
        tensors |= {f"module.{key}": t[m] for key, t in self.stacked.named_buffers()}
        own = tuple(arg[m] for arg in args)
        return functional_call(_Method(self.parts[m], name), tensors, own)


class _Method(nn.Module):
    # functional_call knows forward alone.
    def __init__(self, module: nn.Module, name: str):
        super().__init__()
        self.module, self.method = module, attrgetter(name)

    def forward(self, *args):
        return self.method(self.module)(*args)


def _broadcast(out):
    return torch.broadcast_tensors(*out)  # log σ may be shared by the rows


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
