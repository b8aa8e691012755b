"""What is a cell, given location and scale? A number, a value on a grid, or one of some names.

A decoder gives every column of v2 a location and a scale. Of a continuous column the cell is
``μ + σ · noise``, of a column on a grid it is the value next to that, and of a category, which
has a column for each of its levels, it is one level by the softmax of the locations. Columns
stand in this order: continuous, on a grid, levels. :class:`MixedNoise` has the same methods as a
family of noise in ``noise.py``; a new kind of column is a class like :class:`GridCells`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from .linear import along
from .noise import Noise

__all__ = ["CategoryCells", "GridCells", "MixedNoise"]

SHARPEST = 0.125  # standard deviation of noise in steps, at which training starts at least
LEVEL_FLOOR = 1e-3  # of the probability of a category, shared by its levels alike


class GridCells(nn.Module):
    r"""Columns of values on a grid: the probability of the interval around each value.

    .. math:: \log P(x) = \log [F((b - \mu) / \sigma) - F((a - \mu) / \sigma)]

    with the ends a, b half a step below and above x. What lies beyond the lowest and the highest
    value belongs to these. A column may be bent: then μ and σ belong to asinh(x / s).

    Parameters
    ----------
    step, low, high : sequence of float
        Spacing of the grid, lowest and highest value (±inf where there is none) of each column.
    offset, scale : sequence of float
        ``standardised = (bent - offset) / scale``.
    bend : sequence of float
        s; an infinite one bends nothing.

    Examples
    --------
    >>> import torch
    >>> from skgvae.nn.cells import GridCells
    >>> from skgvae.nn.noise import GaussianNoise
    >>> count = GridCells([1.0], [0.0], [torch.inf], [2.0], [3.0], [torch.inf])
    >>> x = (torch.arange(100)[:, None] - 2.0) / 3.0
    >>> log_p = count.log_prob(GaussianNoise, x, torch.zeros(1), torch.zeros(1))
    >>> round(log_p.exp().sum().item(), 4)
    1.0
    """

    takes_model_axis = True

    def __init__(
        self,
        step: Sequence[float],
        low: Sequence[float],
        high: Sequence[float],
        offset: Sequence[float],
        scale: Sequence[float],
        bend: Sequence[float],
    ):
        super().__init__()
        named = self._buffers_of(step, low, high, offset, scale, bend)
        for name, values in named.items():
            self.register_buffer(name, values.float())

    @torch.no_grad()
    def set_(self, **params: Sequence[float]) -> None:
        """Go on with other parameters of as many columns."""
        for name, values in self._buffers_of(**params).items():
            getattr(self, name).copy_(values)

    @staticmethod
    def _buffers_of(step, low, high, offset, scale, bend):
        step, low, high, offset, scale, bend = (
            torch.as_tensor(values, dtype=torch.float64, device="cpu")
            for values in (step, low, high, offset, scale, bend)
        )
        # The ends in standardised units: those of the user may be large beside a step.
        ends = low + 0.5 * step, high - 0.5 * step
        ends = (torch.where(bend.isinf(), end, torch.asinh(end / bend)) for end in ends)
        lowest, highest = ((end - offset) / scale for end in ends)
        named = {"step": step, "offset": offset, "scale": scale, "bend": bend}
        return named | {"lowest": lowest, "highest": highest}

    def intervals(self, x: Tensor, only_inside: bool = False) -> tuple[Tensor, Tensor]:
        """Return how far the interval reaches below and above each value, of shape (*, d).

        Parameters
        ----------
        x : Tensor of shape (*, d)
            Standardised values.
        only_inside : bool
            Whether the intervals of the lowest and the highest value end like the others.
        """
        step, offset, scale, bend = (
            along(buffer, x) for buffer in (self.step, self.offset, self.scale, self.bend)
        )
        t = x * scale + offset
        is_straight = bend.isinf()
        s = torch.where(is_straight, 1.0, bend)
        # The distance of asinh at the two ends, without a difference of what may be large.
        a, d = torch.sinh(torch.where(is_straight, 0.0, t)), 0.5 * step / s
        sign = torch.where(a < 0, -1.0, 1.0).to(a)
        below, above = (side * _asinh_step(sign * a, side * d) for side in (-sign, sign))
        below = torch.where(is_straight, 0.5 * step, below) / scale
        above = torch.where(is_straight, 0.5 * step, above) / scale
        if only_inside:
            return below, above
        below = torch.where(x < along(self.lowest, x), torch.inf, below)
        return below, torch.where(x > along(self.highest, x), torch.inf, above)

    def log_prob(self, noise: type[Noise], x: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
        """Return the log probability of each cell.

        Parameters
        ----------
        noise : subclass of Noise
            F belongs to it.
        x, loc, log_scale : Tensor of shape (*, d)
            Standardised values, location and log scale; they broadcast.
        """
        return noise.log_interval(x, *self.intervals(x), loc, log_scale)

    def log_volume(self, x: Tensor) -> Tensor:
        """Return the log width of the interval around each standardised value."""
        return torch.log(sum(self.intervals(x, only_inside=True)))

    def log_width(self, loc: Tensor, log_scale: Tensor) -> Tensor:
        """Return the log standard deviation of noise and grid together, roughly."""
        width = sum(self.intervals(loc, only_inside=True))
        return 0.5 * torch.log(torch.exp(2 * log_scale) + width.square() / 12)

    def linear_start(self, noise: type[Noise], bias: Tensor, log_scale: Tensor) -> Tensor:
        """Return the log scale of noise, without what rounding adds to it (Sheppard 1898).

        Parameters
        ----------
        noise : subclass of Noise
            Family of the noise.
        bias, log_scale : Tensor of shape (d,)
            Where the values are, and log scale of noise and rounding together.
        """
        width = sum(self.intervals(bias, only_inside=True))
        variance = noise.variance * torch.exp(2 * log_scale) - width.square() / 12
        variance = torch.maximum(variance, (SHARPEST * width).square())
        return 0.5 * torch.log(variance / noise.variance)

    def information_roots(self, noise, loc, log_scale, by_loc, by_log_scale):
        """Return roots of the Fisher information, that of noise and grid together; roughly."""
        log_wider = self.log_width(loc, log_scale)
        share = torch.exp(2 * (log_scale - log_wider))
        by_log_scale = by_log_scale * share[..., None, :]
        return noise.information_roots(loc, log_wider, by_loc, by_log_scale)


class CategoryCells(nn.Module):
    r"""Categories: the softmax of the locations of a category's levels, with a floor.

    .. math:: P(l) = (1 - \epsilon) \operatorname{softmax}(\mu)_l + \epsilon / L

    with ε = 0.001, so that a level that a model has not seen with such a row is not impossible.
    A level is present where its standardised column is positive.

    Parameters
    ----------
    sizes : sequence of int
        Number of levels L of each category.
    share : sequence of float
        Frequency π of each level, in (0, 1); ``standardised = (present - π) / sqrt(π (1 - π))``.

    Examples
    --------
    >>> import torch
    >>> from skgvae.nn.cells import CategoryCells
    >>> animal = CategoryCells([3], [0.5, 0.3, 0.2])
    >>> x = torch.tensor([[-1.0, 1.5, -0.5]])
    >>> animal.log_prob(x, torch.zeros(3)).sum().exp()
    tensor(0.3333)
    """

    takes_model_axis = True

    def __init__(self, sizes: Sequence[int], share: Sequence[float]):
        super().__init__()
        self.sizes = tuple(int(n) for n in sizes)
        ends = [sum(self.sizes[: i + 1]) for i in range(len(self.sizes))]
        places = [torch.arange(end - n, end) for n, end in zip(self.sizes, ends, strict=True)]
        index = nn.utils.rnn.pad_sequence(places, True, -1)
        self.register_buffer("share", torch.as_tensor(share, dtype=torch.float32))
        self.register_buffer("index", index.clamp(min=0))
        padding = torch.zeros(index.shape).masked_fill(index < 0, -torch.inf)
        self.register_buffer("padding", padding)
        sizes = torch.tensor(self.sizes)
        self.register_buffer("category", torch.arange(len(sizes)).repeat_interleave(sizes))
        self.register_buffer("size", sizes.repeat_interleave(sizes).float())

    def log_softmax(self, logits: Tensor) -> Tensor:
        """Return the log probability of each level, without the floor, of shape (*, n_levels)."""
        index, category = (b if b.ndim == n else b[0] for b, n in self._places())
        padded = logits[..., index] + along(self.padding, logits[..., None], 2)
        return logits - padded.logsumexp(-1)[..., category]

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probability of each level, of shape (*, n_levels)."""
        rest = LEVEL_FLOOR / along(self.size, logits)
        return (1 - LEVEL_FLOOR) * self.log_softmax(logits).exp() + rest

    def log_prob(self, x: Tensor, logits: Tensor) -> Tensor:
        """Return the log probability of the level that is present, zero for all others.

        Parameters
        ----------
        x, logits : Tensor of shape (*, n_levels)
            Standardised columns and locations; they broadcast.
        """
        log_rest = math.log(LEVEL_FLOOR) - along(self.size, logits).log()
        log_p = torch.logaddexp(self.log_softmax(logits) + math.log1p(-LEVEL_FLOOR), log_rest)
        return torch.where(x > 0, log_p, 0.0)

    def draw(self, logits: Tensor, eps: Tensor) -> Tensor:
        """Return standardised draws of the levels, relaxed so that they have a gradient.

        The largest is the level that is drawn [1]_ [2]_.

        Parameters
        ----------
        logits, eps : Tensor of shape (*, n_levels)
            Locations, and standard normal draws.

        References
        ----------
        .. [1] Maddison, Mnih & Teh, "The Concrete Distribution", 2017, arXiv:1611.00712.
        .. [2] Jang, Gu & Poole, "Categorical Reparameterization with Gumbel-Softmax", 2017,
           arXiv:1611.01144.
        """
        log_p = self.probabilities(logits).log()
        gumbel = -torch.log(-torch.special.log_ndtr(eps))
        return self.standardised(self.log_softmax(log_p + gumbel).exp())

    def standardised(self, present: Tensor) -> Tensor:
        """Return columns in standardised units, given how far each level is present."""
        share = along(self.share, present)
        return (present - share) / (share * (1 - share)).sqrt()

    def information_roots(self, logits, by_logits):
        """Return a root of the Fisher information about z, of shape (*, l, n_levels)."""
        p = self.log_softmax(logits).exp()[..., None, :]
        index, category = (b if b.ndim == n else b[0] for b, n in self._places())
        mean = ((by_logits * p)[..., index] * self.padding.exp()).sum(-1)
        return (by_logits - mean[..., category]) * p.sqrt()

    def score(self, x: Tensor, logits: Tensor) -> Tensor:
        """Return how far each level is from its probability, over the root of that."""
        p = self.log_softmax(logits).exp()
        return ((x > 0).to(p) - p) / p.sqrt()

    def linear_start(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return logits that go with a linear model of the standardised columns.

        By Bayes' rule, if z is normal given the level, around the mean that the linear model
        tells: the logit is :math:`\log \pi_l + m_l^T z - |m_l|^2 / 2`.

        Parameters
        ----------
        weight, bias : Tensor of shape (n_levels, latent_features) and (n_levels,)
            Of the linear model.
        """
        share = self.share.to(weight)
        by_share = ((1 - share) / share).sqrt()
        weight, bias = weight * by_share[:, None], bias * by_share
        return weight, share.log() + bias - 0.5 * weight.square().sum(1)

    def extra_repr(self) -> str:
        """Return what repr shows, and what models that are trained together share."""
        return ", ".join(map(str, self.sizes))

    def _places(self):
        return (self.index, 2), (self.category, 1)


class MixedNoise(nn.Module):
    """Columns of several kinds, with one family of noise.

    Parameters
    ----------
    base : subclass of Noise
        The family.
    n_continuous : int
        Number of continuous columns, the first ones.
    grid : dict, optional
        Parameters of :class:`GridCells`, for the next columns.
    categories : dict, optional
        Parameters of :class:`CategoryCells`, for the last columns.
    """

    takes_model_axis = True

    def __init__(
        self,
        base: type[Noise],
        n_continuous: int,
        grid: dict | None = None,
        categories: dict | None = None,
    ):
        super().__init__()
        self.base = base
        self.grid = None if grid is None else GridCells(**grid)
        self.categories = None if categories is None else CategoryCells(**categories)
        n_grid = 0 if grid is None else len(grid["step"])
        n_levels = 0 if categories is None else sum(categories["sizes"])
        self.sizes = n_continuous, n_grid, n_levels

    def log_prob(self, x: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
        """Return the log density or the log probability of each cell, in nats.

        Parameters
        ----------
        x, loc, log_scale : Tensor of shape (*, d)
            Cells, location and log scale; they broadcast.
        """
        blocks = self._split(x, loc, log_scale.expand_as(loc))
        return self._joined(
            lambda: self.base.log_prob(*blocks[0]),
            lambda: self.grid.log_prob(self.base, *blocks[1]),
            lambda: self.categories.log_prob(*blocks[2][:2]),
        )

    def draw(self, loc: Tensor, log_scale: Tensor, eps: Tensor) -> Tensor:
        """Return draws, given standard normal ones; on a grid they are not rounded yet."""
        blocks = self._split(loc, log_scale.expand_as(loc), eps)
        return self._joined(
            lambda: self.base.draw(*blocks[0]),
            lambda: self.base.draw(*blocks[1]),
            lambda: self.categories.draw(blocks[2][0], blocks[2][2]),
        )

    def information_roots(self, loc, log_scale, by_loc, by_log_scale):
        """Return A and B as :meth:`Noise.information_roots`, for columns on a grid roughly."""
        blocks = self._split(loc, log_scale, by_loc, by_log_scale)
        found = [self.base.information_roots(*blocks[0])]
        if self.sizes[1]:
            found.append(self.grid.information_roots(self.base, *blocks[1]))
        if self.sizes[2]:
            logits, _, by_logits, by_nothing = blocks[2]
            found.append((self.categories.information_roots(logits, by_logits), 0 * by_nothing))
        return tuple(torch.cat(part, -1) for part in zip(*found, strict=True))

    def log_volume(self, x: Tensor) -> Tensor:
        """Return the log width of what each value stands for: zero but for a grid."""
        (numbers,), (on_grid,), (levels,) = self._split(x)
        return self._joined(
            lambda: torch.zeros_like(numbers),
            lambda: self.grid.log_volume(on_grid),
            lambda: torch.zeros_like(levels),
        )

    def score(self, x: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
        """Return how far cells are from what is expected, as :meth:`Noise.score`."""
        blocks = self._split(x, loc, log_scale.expand_as(loc))
        return self._joined(
            lambda: self.base.score(*blocks[0]),
            lambda: self.base.score(*blocks[1][:2], self.grid.log_width(*blocks[1][1:])),
            lambda: self.categories.score(*blocks[2][:2]),
        )

    def linear_start(
        self, weight: Tensor, bias: Tensor, log_scale: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return locations and log scale that go with a linear Gaussian model of the columns."""
        log_scale = log_scale.expand_as(bias)
        if self.sizes[1]:
            at = slice(self.sizes[0], self.sizes[0] + self.sizes[1])
            log_scale = log_scale.clone()
            log_scale[at] = self.grid.linear_start(self.base, bias[at], log_scale[at])
        if self.sizes[2]:
            n = sum(self.sizes[:2])
            logits = self.categories.linear_start(weight[n:], bias[n:])
            weight, bias = torch.cat([weight[:n], logits[0]]), torch.cat([bias[:n], logits[1]])
        return weight, bias, log_scale

    def dithered(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return values as if they had not been rounded: with noise as wide as the rounding."""
        x = x.clone()
        on_grid = x[..., self.sizes[0] : self.sizes[0] + self.sizes[1]]  # a view
        if self.sizes[1]:
            width = sum(self.grid.intervals(on_grid, only_inside=True))
            eps = torch.randn(on_grid.shape, generator=generator, dtype=x.dtype)
            on_grid += eps * width / math.sqrt(12)
        return x

    def cell_variance(self, loc: Tensor, log_scale: Tensor) -> Tensor:
        """Return the variance of cells that are taken for numbers; on a grid roughly."""
        loc, on_grid, levels = self._split(loc, log_scale.expand_as(loc))
        return self._joined(
            lambda: self.base.cell_variance(*loc),
            lambda: self.base.variance * torch.exp(2 * self.grid.log_width(*on_grid)),
            lambda: self.base.cell_variance(*levels),
        )

    def distribution(self, loc: Tensor, scale: Tensor) -> Distribution:
        """Return the distribution of each cell."""
        return CellDistribution(self, loc, scale)

    # Of the noise alone, which is what a continuous cell holds.

    @property
    def variance(self) -> float:
        """Variance at scale one."""
        return self.base.variance

    def cdf(self, t: Tensor) -> Tensor:
        """Return the probability of noise up to t."""
        return self.base.cdf(t)

    def log_density(self, t: Tensor) -> Tensor:
        """Return the log density of noise at t, in nats."""
        return self.base.log_density(t)

    def from_normal(self, eps: Tensor) -> Tensor:
        """Return draws of noise, given standard normal ones."""
        return self.base.from_normal(eps)

    def quantile(self, p: Tensor) -> Tensor:
        """Return the quantile of noise of probability p."""
        return self.base.quantile(p)

    def extra_repr(self) -> str:
        """Return what repr shows."""
        return f"{self.base.__name__}, {self.sizes}"

    def _split(self, *parts):
        return list(zip(*(part.split(self.sizes, -1) for part in parts), strict=True))

    def _joined(self, *blocks):
        found = [block() for block, size in zip(blocks, self.sizes, strict=True) if size]
        return found[0] if len(found) == 1 else torch.cat(found, -1)


class CellDistribution(Distribution):
    """The distribution of each cell, given location and scale.

    Parameters
    ----------
    family : MixedNoise
        Kinds of the columns.
    loc, scale : Tensor of shape (*, d)
        Location and scale.
    """

    arg_constraints: dict = {}

    def __init__(self, family: MixedNoise, loc: Tensor, scale: Tensor):
        self.family, self.loc, self.scale = family, loc, scale
        super().__init__(loc.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density or the log probability of each cell, in nats."""
        return self.family.log_prob(value, self.loc, self.scale.log())

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Return draws, on a grid not rounded yet, of levels relaxed."""
        shape = *sample_shape, *self.loc.shape
        eps = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.family.draw(self.loc.expand(shape), self.scale.log(), eps)


def _asinh_step(a, d):
    # asinh(a + d) - asinh(a) for a >= 0.
    root, moved = torch.hypot(a, torch.ones_like(a)), torch.hypot(a + d, torch.ones_like(a))
    return torch.log1p(d * (1 + (2 * a + d) / (root + moved)) / (a + root))
