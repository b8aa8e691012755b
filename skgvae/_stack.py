"""How are several trained at once? As the rows of one matrix.

A step of a small network is overhead, not arithmetic: several of them cost little more than
one when their weights are stacked. Layers see each tensor of M models with the models as its
first axis; so do rows, of shape (M, n, features), and draws, of shape (M, K, n, features). What
is done to all weights alike sees one matrix (M, P), a row a model: the step of an optimizer, an
average, the best epoch, a choice of models are each a few operations.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from operator import attrgetter
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .nn import takes_model_axis

__all__ = ["Columns", "ModuleStack"]

HIDDEN = "*.hidden.*.weight"  # these matrices come last in a row


class Columns(NamedTuple):
    """Where a tensor of a model stands in its row of the matrix."""

    name: str
    start: int
    stop: int
    shape: torch.Size


class ModuleStack:
    """M modules of one architecture with their weights stacked.

    ``members`` are ordinary modules with weights of their own. :meth:`pull_` takes these into the
    stack, :meth:`sync_` gives those of the stack to the members; in between the stack is trained.
    It has the parts of its members (``encoder``, ``decoder``, ``prior``, ``classify``), so that
    an objective is written once for both. A part that knows nothing of a model axis, such as a
    user's own network, is called in a loop.

    Parameters
    ----------
    members : sequence of nn.Module
        :class:`~skgvae.nn.GaussianVAEModule` or alike, on one device.

    Attributes
    ----------
    weights : Tensor of shape (M, P)
        All parameters of all members.
    parameters : dict of nn.Parameter
        Tensors of shape (M, *) by name, which layers see and gradients reach: views of
        ``weights``, so that a step on either is one on both.
    buffers : dict of Tensor
        Of the members, of shape (M, *).
    columns : list of Columns
        What stands where in a row.

    Examples
    --------
    >>> import torch
    >>> from skgvae.nn import GaussianVAEModule
    >>> from skgvae.objectives import elbo
    >>> from skgvae._stack import ModuleStack
    >>> stack = ModuleStack([GaussianVAEModule(4, 2) for _ in range(3)])
    >>> v1, eps = torch.zeros(3, 10, 4), torch.randn(3, 5, 10, 2)
    >>> elbo(stack, v1, v1, eps).value.shape
    torch.Size([3, 10])
    """

    def __init__(self, members: Sequence[nn.Module]):
        self.members = tuple(members)
        named = dict(members[0].named_parameters())
        if any(isinstance(p, nn.parameter.UninitializedParameter) for p in named.values()):
            raise ValueError("Lazy modules cannot be trained: call them once, then give them.")
        dtypes = {p.dtype for p in named.values()}
        if len(dtypes) > 1:
            raise ValueError(f"All weights of a model must have one dtype, got {dtypes}.")
        self.columns, start = [], 0
        for name in sorted(named, key=lambda name: _is_hidden(name, named[name])):
            shape = named[name].shape
            self.columns.append(Columns(name, start, start + shape.numel(), shape))
            start += shape.numel()
        self.n_others = sum(p.numel() for name, p in named.items() if not _is_hidden(name, p))
        self._sizes = [c.stop - c.start for c in self.columns]
        self.stacked = copy.deepcopy(members[0])
        self.parameters = {}
        for name, parameter in named.items():
            stacked = nn.Parameter(parameter.new_empty(0))
            self.parameters[name] = stacked
            for owner, attribute in _owners(self.stacked, name):
                owner._parameters[attribute] = stacked
        self.pull_()

    def __len__(self) -> int:
        return len(self.members)

    # Between the members, the parameters and the matrix

    @torch.no_grad()
    def pull_(self) -> None:
        """Take the weights of all members into the stack."""
        members = [dict(member.named_parameters()) for member in self.members]
        rows = [torch.cat([named[c.name].flatten() for c in self.columns]) for named in members]
        for name, parameter in self.parameters.items():
            parameter.requires_grad_(members[0][name].requires_grad)
        buffers = [dict(member.named_buffers()) for member in self.members]
        buffers = {name: torch.stack([b[name] for b in buffers]) for name in buffers[0]}
        self.put_(torch.stack(rows), buffers)

    @torch.no_grad()
    def sync_(self, weights: Tensor | None = None) -> None:
        """Give the members the weights of the matrix, or of another one like it."""
        weights = self.weights if weights is None else weights
        for m, member in enumerate(self.members):
            named = dict(member.named_parameters())
            for c in self.columns:
                named[c.name].copy_(weights[m, c.start : c.stop].view(c.shape))
                # A callback may have frozen it, for the next training too.
                named[c.name].requires_grad_(self.parameters[c.name].requires_grad)
            for name, buffer in member.named_buffers():
                buffer.copy_(self.buffers[name][m])

    @torch.no_grad()
    def bind_(self, matrix: Tensor | None = None) -> None:
        """Let the parameters be parts of the matrix, or of another one like it."""
        for name, part in self.by_name(self.weights if matrix is None else matrix).items():
            self.parameters[name].data = part

    @torch.no_grad()
    def gradient(self) -> Tensor:
        """Return the gradients as one matrix, zero for parameters that have none."""
        parts = []
        for c in self.columns:
            parameter = self.parameters[c.name]
            grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parts.append(grad.flatten(1))
        return torch.cat(parts, 1)

    def by_name(self, matrix: Tensor) -> dict[str, Tensor]:
        """Return the parts of such a matrix by name, views of shape (M, *)."""
        n, parts = len(matrix), matrix.split(self._sizes, 1)
        named = zip(self.columns, parts, strict=True)
        return {name: part.view(n, *shape) for (name, _, _, shape), part in named}

    @torch.no_grad()
    def put_(self, weights: Tensor, buffers: dict[str, Tensor]) -> None:
        """Go on from these weights and buffers."""
        self.weights, self.buffers = weights, buffers
        self.bind_()
        for parameter in self.parameters.values():
            parameter.grad = None
        self._find_parts()

    # What an objective sees

    def train(self, mode: bool = True) -> ModuleStack:
        """Set the mode of all members."""
        for module in (self.stacked, *self.members):
            module.train(mode)
        return self

    @property
    def training(self) -> bool:
        """Whether the members are in training mode."""
        return self.stacked.training

    @property
    def encoder(self) -> nn.Module:
        """q(z | v1) of all members."""
        return self._parts["encoder"]

    @property
    def decoder(self) -> nn.Module:
        """p(v2 | z) of all members."""
        return self._parts["decoder"]

    @property
    def prior(self) -> nn.Module:
        """p(z) of all members."""
        return self._parts["prior"]

    def classify(self, v1: Tensor, v2_estimate: Tensor) -> Tensor:
        """Return the logits of all members, of shape (M, [K,] n, n_classes)."""
        return self._parts["classifier"].classify(v1, v2_estimate)

    def squared_weights(self) -> Tensor:
        """Return the sum of the squared weights of each member's classifier, of shape (M,)."""
        return self._parts["classifier"].squared_weights()

    # Copies would share no memory between parameters and matrix. The members are what is saved:
    # in training an average, and later what a user has loaded into them.

    def __deepcopy__(self, memo):
        return ModuleStack(copy.deepcopy(self.members, memo))

    def __reduce__(self):
        return ModuleStack, (self.members,)

    def _find_parts(self):
        for name, buffer in self.buffers.items():
            for owner, attribute in _owners(self.stacked, name):
                owner._buffers[attribute] = buffer
        self._parts = {}
        for name in ("encoder", "decoder", "prior"):
            part = getattr(self.stacked, name)
            is_aware = takes_model_axis(part)
            self._parts[name] = part if is_aware else _EachInTurn(self, attrgetter(name), part)
        classifier = getattr(self.stacked, "classifier", None)
        if classifier is not None:
            is_aware = takes_model_axis(classifier)
            joint = self.stacked if is_aware else _EachInTurn(self, _whole, self.stacked)
            self._parts["classifier"] = joint


class _EachInTurn:
    """A part of every member, called one after the other."""

    def __init__(self, stack: ModuleStack, part_of: Callable, stacked: nn.Module):
        self.stack, self.part_of, self.stacked = stack, part_of, stacked

    def __getattr__(self, name: str):
        if name.startswith("__"):  # what copying asks for
            raise AttributeError(name)
        if not callable(getattr(type(self.stacked), name, None)):
            return getattr(self.stacked, name)  # out_features, noise, ...

        def call(*args):
            outs = [self._call(m, name, args) for m in range(len(self.stack))]
            if outs[0] is None:
                return None
            if isinstance(outs[0], Tensor):
                return torch.stack(outs)
            outs = (torch.broadcast_tensors(*out) for out in outs)  # log σ may be shared by rows
            return tuple(torch.stack(out) for out in zip(*outs, strict=True))

        return call

    def _call(self, m, name, args):
        named = (*self.stack.parameters.items(), *self.stack.buffers.items())
        tensors = {f"module.{key}": tensor[m] for key, tensor in named}
        method = _Method(self.stack.members[m], self.part_of, name)
        own = (arg[m] if isinstance(arg, Tensor) else arg for arg in args)
        return functional_call(method, tensors, tuple(own))


class _Method(nn.Module):
    # functional_call knows forward alone.
    def __init__(self, module: nn.Module, part_of: Callable, name: str):
        super().__init__()
        self.module, self.part_of, self.name = module, part_of, name

    def forward(self, *args):
        return getattr(self.part_of(self.module), self.name)(*args)


def _is_hidden(name, parameter):
    return parameter.ndim == 2 and fnmatch(name, HIDDEN)


def _whole(module):
    return module


def _owners(module, name) -> list[tuple[nn.Module, str]]:
    """Where a parameter or buffer stands: a shared one in several places."""
    path, _, attribute = name.rpartition(".")
    tensor = getattr(module.get_submodule(path), attribute)
    named = (
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    )
    places = [other.rpartition(".") for other, t in named if t is tensor]
    return [(module.get_submodule(path), attribute) for path, _, attribute in places]
