"""How are several trained at once? As the rows of one matrix.

A step of a small network is overhead, not arithmetic: several of them cost little more than
one when their weights are stacked. All weights of M models are one matrix (M, P), a row a model.
So the step of an optimizer, an average, the best epoch, a choice of models are each a few
operations. Layers see their columns of it, with the models as the first axis; so do rows, of
shape (M, n, features), and draws, of shape (M, K, n, features).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from fnmatch import fnmatch
from operator import attrgetter
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .nn import takes_model_axis

__all__ = ["ModuleStack"]

# Weight matrices of hidden layers, as skorch would write it: they come last in a row.
HIDDEN = "*.hidden.*.weight"


class Columns(NamedTuple):
    """Where a tensor of a model stands in its row of the matrix."""

    name: str
    start: int
    stop: int
    shape: torch.Size


class ModuleStack:
    """M modules of one architecture with their weights in one matrix.

    ``members`` are ordinary modules with weights of their own: :meth:`pull_` takes these into the
    matrix, :meth:`sync_` puts the matrix into them. In between the matrix is trained. A stack has
    the parts of its members (``encoder``, ``decoder``, ``prior``, ``classify``), so that an
    objective is written once for both; :meth:`bind` says by which weights. A part that knows
    nothing of a model axis, such as a user's own network, is called in a loop.

    Parameters
    ----------
    members : sequence of nn.Module
        :class:`~skgvae.nn.GaussianVAEModule` or alike, on one device.

    Attributes
    ----------
    weights : nn.Parameter of shape (M, P)
        All parameters of all members.
    columns : list of Columns
        What stands where in a row.
    trainable : Tensor of shape (P,), or None
        Zero for weights that are to stay as they are; None if all are trained.

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
        self.all_members = self.members = tuple(members)
        named = dict(members[0].named_parameters())
        if any(isinstance(p, nn.parameter.UninitializedParameter) for p in named.values()):
            raise ValueError("Lazy modules cannot be trained: call them once, then give them.")
        self.columns, start = [], 0
        for name in sorted(named, key=lambda name: fnmatch(name, HIDDEN)):
            shape = named[name].shape
            self.columns.append(Columns(name, start, start + shape.numel(), shape))
            start += shape.numel()
        self.n_others = sum(c.stop - c.start for c in self.columns if not _is_hidden(c))
        dtypes = {p.dtype for p in named.values()}
        if len(dtypes) > 1:
            raise ValueError(f"All weights of a model must have one dtype, got {dtypes}.")
        like = next(iter(named.values()))
        self.weights = nn.Parameter(like.new_empty(len(members), start))
        self.leaves = None
        self.pull_()

    def __len__(self) -> int:
        return len(self.members)

    # Between the matrix and the members

    @torch.no_grad()
    def pull_(self) -> None:
        """Take the weights of all members into the matrix."""
        self.members = self.all_members
        self.template = copy.deepcopy(self.members[0])
        self._owners = {name: _owners(self.template, name) for name, *_ in self.columns}
        rows = []
        for member in self.members:
            named = dict(member.named_parameters())
            rows.append(torch.cat([named[c.name].detach().flatten() for c in self.columns]))
        self.weights.data, self.weights.grad = torch.stack(rows), None
        named = dict(self.members[0].named_parameters())
        frozen = [not named[c.name].requires_grad for c in self.columns]
        self.trainable = None
        if any(frozen):
            self.trainable = torch.ones_like(self.weights[0])
            for c, is_frozen in zip(self.columns, frozen, strict=True):
                self.trainable[c.start : c.stop] = not is_frozen
        self.buffers = {
            name: torch.stack([dict(m.named_buffers())[name] for m in self.members])
            for name, _ in self.members[0].named_buffers()
        }
        self._find_parts()
        self._fill_leaves()
        self.bind()

    @torch.no_grad()
    def sync_(self, weights: Tensor | None = None) -> None:
        """Give the members the weights of the matrix, or of another one like it."""
        weights = self.weights.detach() if weights is None else weights
        for m, member in enumerate(self.members):
            named = dict(member.named_parameters())
            for c in self.columns:
                named[c.name].copy_(weights[m, c.start : c.stop].view(c.shape))
            for name, buffer in member.named_buffers():
                buffer.copy_(self.buffers[name][m])

    @torch.no_grad()
    def make_leaves(self) -> dict[str, nn.Parameter]:
        """Return a parameter of its own for each tensor, for an optimizer that wants names.

        From then on layers see these; :meth:`gather_` puts them into the matrix.
        """
        if self.leaves is None:
            named = self.named_weights()
            self.leaves = {name: nn.Parameter(tensor.clone()) for name, tensor in named.items()}
            self._fill_leaves()
        return self.leaves

    @torch.no_grad()
    def _fill_leaves(self):
        flags = dict(self.members[0].named_parameters())
        for name, leaf in (self.leaves or {}).items():
            leaf.data, leaf.grad = self.named_weights()[name].detach().clone(), None
            leaf.requires_grad_(flags[name].requires_grad)

    @torch.no_grad()
    def gather_(self) -> None:
        """Put the leaves, where there are any, into the matrix."""
        if self.leaves is not None:
            leaves = [self.leaves[c.name].flatten(1) for c in self.columns]
            torch.cat(leaves, 1, out=self.weights.data)

    @torch.no_grad()
    def keep_(self, rows: Tensor) -> None:
        """Go on with these members alone."""
        self.members = tuple(self.members[i] for i in rows.tolist())
        self.weights.data, self.weights.grad = self.weights.data[rows], None
        self.buffers = {name: buffer[rows] for name, buffer in self.buffers.items()}
        for leaf in (self.leaves or {}).values():
            leaf.data, leaf.grad = leaf.data[rows], None
        self._find_parts()

    @torch.no_grad()
    def put_(self, weights: Tensor, buffers: dict[str, Tensor]) -> None:
        """Go on from these weights and buffers."""
        self.weights.data, self.weights.grad = weights, None
        self.buffers = buffers
        self._fill_leaves()
        self._find_parts()

    def restore_(self, weights: Tensor, buffers: dict[str, Tensor]) -> None:
        """Put all members back, with these weights and buffers."""
        self.members = self.all_members
        self.put_(weights, buffers)
        self.sync_()

    # What an objective sees

    def bind(self, weights: Tensor | None = None) -> ModuleStack:
        """Let the parts work by these weights, by default those that are trained."""
        tensors = self.leaves
        if weights is not None or tensors is None:
            tensors = self.named_weights(self.weights if weights is None else weights)
        for name, owners in self._owners.items():
            for owner, attribute in owners:
                owner.__dict__[attribute] = tensors[name]
        self._tensors = tensors
        return self

    def named_weights(self, weights: Tensor | None = None) -> dict[str, Tensor]:
        """Return the tensors of all members by name, views of shape (M, *)."""
        weights = self.weights if weights is None else weights
        parts = weights.split([c.stop - c.start for c in self.columns], 1)
        named = zip(self.columns, parts, strict=True)
        return {c.name: part.view(len(part), *c.shape) for c, part in named}

    def gradients(self) -> dict[str, Tensor]:
        """Return the gradients by name, views of shape (M, *), of leaves those that they have."""
        if self.leaves is not None:
            return {n: leaf.grad for n, leaf in self.leaves.items() if leaf.grad is not None}
        return self.named_weights(self.weights.grad)

    @torch.no_grad()
    def silence_(self, names: list[str]) -> None:
        """Forget the gradients of these tensors, and of weights that are not trained."""
        gradient = self.weights.grad
        if gradient is None:
            for name in names:
                self.leaves[name].grad = None
            return
        if self.trainable is not None:
            gradient.mul_(self.trainable)
        for c in self.columns if names else ():
            if c.name in names:
                gradient[:, c.start : c.stop] = 0

    @torch.no_grad()
    def clip_(self, max_norm: float) -> None:
        """Scale the gradient of each member down to this norm, as torch's clip_grad_norm_ does."""
        parts = [self.weights.grad]
        if self.weights.grad is None:
            parts = [gradient.flatten(1) for gradient in self.gradients().values()]
        square = sum(torch.linalg.vector_norm(part, dim=1).square() for part in parts)
        factor = (max_norm / (square.sqrt() + 1e-6)).clamp(max=1).unsqueeze(1)
        for part in parts:
            part.mul_(factor)

    def with_gradients(self) -> list[tuple[str, Tensor]]:
        """Return names and tensors with their gradients, as skorch's callbacks know them."""
        if self.leaves is not None:
            return list(self.leaves.items())
        named = self.named_weights(self.weights.detach())
        for name, gradient in self.gradients().items():
            named[name].grad = gradient
        return list(named.items())

    def train(self, mode: bool = True) -> ModuleStack:
        """Set the mode of all members."""
        for module in (self.template, *self.members):
            module.train(mode)
        return self

    @property
    def training(self) -> bool:
        """Whether the members are in training mode."""
        return self.template.training

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

    def _find_parts(self):
        for name, buffer in self.buffers.items():
            for owner, attribute in _owners(self.template, name):
                owner._buffers[attribute] = buffer
        self._parts = {}
        for name in ("encoder", "decoder", "prior"):
            part = getattr(self.template, name)
            if not takes_model_axis(part):
                part = _EachInTurn(self, attrgetter(name), part)
            self._parts[name] = part
        classifier = getattr(self.template, "classifier", None)
        if classifier is not None:
            aware = takes_model_axis(classifier)
            part = self.template if aware else _EachInTurn(self, lambda m: m, self.template)
            self._parts["classifier"] = part

    def __getstate__(self):
        # What follows from the members; copies share no memory.
        self.gather_()
        return {"members": self.all_members, "has_leaves": self.leaves is not None}

    def __setstate__(self, state):
        self.__init__(state["members"])
        if state["has_leaves"]:
            self.make_leaves()


class _EachInTurn:
    """A part of every member, called one after the other."""

    def __init__(self, stack: ModuleStack, part_of, template: nn.Module):
        self.stack, self.part_of, self.template = stack, part_of, template

    def __getattr__(self, name: str):
        if not callable(getattr(type(self.template), name, None)):
            return getattr(self.template, name)  # out_features, noise, ...

        def call(*args):
            outs = [self._call(m, name, args) for m in range(len(self.stack))]
            if outs[0] is None:
                return None
            if isinstance(outs[0], Tensor):
                return torch.stack(outs)
            return tuple(torch.stack(out) for out in zip(*map(_broadcast, outs), strict=True))

        return call

    def _call(self, m, name, args):
        member = self.stack.members[m]
        named = (*self.stack._tensors.items(), *self.stack.buffers.items())
        tensors = {f"module.{key}": tensor[m] for key, tensor in named}
        method = _Method(member, self.part_of, name)
        own = (arg[m] if isinstance(arg, Tensor) else arg for arg in args)
        return functional_call(method, tensors, tuple(own))


class _Method(nn.Module):
    # functional_call knows forward alone.
    def __init__(self, module: nn.Module, part_of, name: str):
        super().__init__()
        self.module, self.part_of, self.method = module, part_of, attrgetter(name)

    def forward(self, *args):
        return self.method(self.part_of(self.module))(*args)


def _broadcast(out):
    return torch.broadcast_tensors(*out)  # log σ may be shared by the rows


def _is_hidden(columns):
    return fnmatch(columns.name, HIDDEN)


def _owners(module, name) -> list[tuple[nn.Module, str]]:
    """Where a parameter or buffer stands: a shared one in several places."""
    tensor = _get(module, name)
    named = (
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    )
    places = [other.rpartition(".") for other, t in named if t is tensor]
    return [(module.get_submodule(path), attribute) for path, _, attribute in places]


def _get(module, name):
    path, _, attribute = name.rpartition(".")
    return getattr(module.get_submodule(path), attribute)
