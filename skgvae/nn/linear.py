"""Layers whose weights may have one more axis: that of several models of one architecture.

A plain layer maps (*, in_features) to (*, out_features). With weights of M models it maps
(M, *, in_features) to (M, *, out_features), each model its own rows. Everything in this package
that is made of such layers works for one model and for many, with the same code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn


class Linear(nn.Linear):
    """A linear layer; its weights may have a leading axis of models.

    They are unset: :class:`torch.nn.Linear` would draw them from torch's global generator.

    Parameters
    ----------
    in_features, out_features : int
        Widths.
    bias : bool
        Whether there is an offset.
    """

    takes_model_axis = True

    def __init__(self, in_features: int, out_features: int, bias: bool = True):
        nn.Module.__init__(self)
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.register_parameter("bias", nn.Parameter(torch.empty(out_features)) if bias else None)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the weights as torch does by default."""
        if self.weight.is_meta and generator is None:
            return
        limit = 1 / math.sqrt(self.in_features)
        for parameter in (self.weight, self.bias):
            if parameter is not None:
                draw_(parameter, partial(nn.init.uniform_, a=-limit, b=limit), generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x @ weight.T + bias``."""
        return affine(x, self.weight, self.bias)


def affine(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W^T + b, of shape ([M,] *, out_features).

    Parameters
    ----------
    x : Tensor of shape ([M,] *, in_features)
        Input.
    weight : Tensor of shape ([M,] out_features, in_features)
        W.
    bias : Tensor of shape ([M,] out_features), optional
        b.
    """
    if weight.ndim == 2:
        return nn.functional.linear(x, weight, bias)
    rows = x.flatten(1, -2)
    if bias is None:
        out = torch.bmm(rows, weight.mT)
    else:
        out = torch.baddbmm(bias.unsqueeze(1), rows, weight.mT)
    return out.view(*x.shape[:-1], weight.shape[-2])


def plus_linear(y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Return y + x W^T; shapes as for :func:`affine`."""
    if weight.ndim == 2:
        return y + nn.functional.linear(x, weight)
    return torch.baddbmm(y.flatten(1, -2), x.flatten(1, -2), weight.mT).view(y.shape)


def along(parameter: Tensor, x: Tensor, n_axes: int = 1) -> Tensor:
    """Return a parameter such that it broadcasts against x, its model axis against that of x.

    Parameters
    ----------
    parameter : Tensor of shape ([M,] *own)
        With ``n_axes`` axes of its own.
    x : Tensor of shape ([M,] *, *own)
        What it is combined with.
    """
    if parameter.ndim == n_axes:
        return parameter
    own = parameter.shape[1:]
    return parameter.view(len(parameter), *[1] * (x.ndim - parameter.ndim), *own)


def takes_model_axis(module: nn.Module) -> bool:
    """Say whether a module with a leading axis of models in all its tensors works as one.

    A class says so by ``takes_model_axis = True`` in its own body; a subclass, which may do
    otherwise, has to say it again. Of the parts of a module those with tensors have to say so.
    """
    parts = (part for part in module.modules() if part is module or _has_tensors(part))
    return all(vars(type(part)).get("takes_model_axis", False) for part in parts)


def _has_tensors(module):
    named = (*module._parameters.values(), *module._buffers.values())
    return any(tensor is not None for tensor in named)


def hidden_layers(
    in_features: int, hidden_features: Sequence[int], activation: Callable[[], nn.Module]
) -> nn.Sequential:
    """Return linear layers, each with an activation after it."""
    layers = []
    for a, b in pairwise((in_features, *hidden_features)):
        layers += [Linear(a, b), activation()]
    return nn.Sequential(*layers)


@torch.no_grad()
def draw_(parameter: Tensor, init: Callable, generator: torch.Generator | None) -> None:
    """Fill a parameter with draws, made in float32 and where the generator is.

    So a seed gives the same numbers whatever torch's default dtype and default device are.
    """
    device = parameter.device if generator is None else generator.device
    draws = torch.empty(parameter.shape, dtype=torch.float32, device=device)
    parameter.copy_(init(draws, generator=generator))


def check_positive(**sizes: int | Sequence[int]) -> None:
    """Raise a ValueError where a size, or one of several, is less than one."""
    for name, size in sizes.items():
        each = size if isinstance(size, Sequence) else (size,)
        if not all(n >= 1 for n in each):
            raise ValueError(f"{name} must be 1 or more, got {size}.")
