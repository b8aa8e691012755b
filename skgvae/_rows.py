"""What is trained on: rows of one model, or of several at once, taken in batches."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

__all__ = ["Batch", "RowDataset", "StackedRows", "batches"]


class Batch(NamedTuple):
    """Some rows; of M models every tensor has M as its first axis."""

    v1: Tensor
    v2: Tensor
    weight: Tensor | None = None
    label: Tensor | None = None
    label_weight: Tensor | None = None
    known: Tensor | None = None


class RowDataset(Dataset):
    """Rows of v1, v2, their weights, and for a classifier their labels.

    Parameters
    ----------
    v1 : Tensor of shape (n_samples, in_features)
        Input.
    v2 : Tensor of shape (n_samples, out_features), optional
        Target; v1 itself, without a copy, by default.
    weight : Tensor of shape (n_samples,), optional
        Row weights with mean one.
    label : Tensor of shape (n_samples,), optional
        Indices of classes.
    label_weight : Tensor of shape (n_samples,), optional
        Weights of the labels with mean one, zeros included; where the label is unknown, minus
        the weight of the row.
    known : Tensor of bool, of shape (n_samples, out_features), optional
        Which cells of v2 are known; the others may hold any finite number. All by default.
    """

    def __init__(
        self,
        v1: Tensor,
        v2: Tensor | None = None,
        weight: Tensor | None = None,
        label: Tensor | None = None,
        label_weight: Tensor | None = None,
        known: Tensor | None = None,
    ):
        # A subset shares the table and has an index into it, but weights of its own.
        self._table = v1, v1 if v2 is None else v2, label, known
        self._index = None
        self.weight = weight
        self.label_weight = label_weight

    def __len__(self) -> int:
        return len(self._table[0] if self._index is None else self._index)

    def __getitem__(self, rows) -> tuple[tuple, Tensor]:
        """Return ((v1, weight[, label, label_weight]), v2) of some rows: skorch's (X, y)."""
        return as_pair(self.take(rows))

    def take(self, rows) -> Batch:
        """Return some of the rows, given a slice or their indices."""
        weights = (None if w is None else w[rows] for w in (self.weight, self.label_weight))
        return _taken(self._table, rows if self._index is None else self._index[rows], *weights)

    @property
    def v1(self) -> Tensor:
        """Input, of shape (n_samples, in_features)."""
        return self._column(0)

    @property
    def v2(self) -> Tensor:
        """Target, of shape (n_samples, out_features)."""
        return self._column(1)

    @property
    def label(self) -> Tensor | None:
        """Class index of each row, of shape (n_samples,)."""
        return self._column(2)

    @property
    def known(self) -> Tensor | None:
        """Which cells of v2 are known, of shape (n_samples, out_features); None if all are."""
        return self._column(3)

    def subset(self, rows) -> RowDataset:
        """Return some of the rows, their weights scaled to mean one; the table is shared."""
        part = copy.copy(self)
        part._index = _rows_of(self)[rows]
        part.weight, part.label_weight = (
            _with_mean_one(None if w is None else w[rows])
            for w in (self.weight, self.label_weight)
        )
        return part

    def _column(self, j):
        column = self._table[j]
        return column if column is None or self._index is None else column[self._index]


class StackedRows(Dataset):
    """Rows of several models that are trained together, of which subsets share one table.

    Where a model has fewer rows than another, it has rows of weight zero at the end, and the
    others weigh the more: the mean over all is the mean over its own.

    Parameters
    ----------
    members : sequence of RowDataset
        The rows of each model.

    Attributes
    ----------
    counts : list of int
        Number of rows of each model.
    """

    def __init__(self, members: Sequence[RowDataset]):
        tables = {tuple(map(id, member._table)): member._table for member in members}
        ends = accumulate(len(v1) for v1, *_ in tables.values())
        starts = {i: end - len(tables[i][0]) for i, end in zip(tables, ends, strict=True)}
        self._table = _concatenate(list(tables.values()))
        self.members, self.counts = members, [len(member) for member in members]
        self._index = pad_sequence(
            [_rows_of(m) + starts[tuple(map(id, m._table))] for m in members], True
        )
        self._weight = _stack([member.weight for member in members], self.counts)
        self._label_weight = _stack([member.label_weight for member in members], self.counts)

    @classmethod
    def joined(cls, parts: Sequence[StackedRows]) -> StackedRows:
        """Return the rows of all models of several."""
        return cls([member for part in parts for member in part.members])

    def __len__(self) -> int:
        return max(self.counts)

    def take(self, rows: Tensor, share: Tensor | None = None) -> Batch:
        """Return rows of each model.

        Parameters
        ----------
        rows : Tensor of shape (M, n)
            Their places among the rows of the model.
        share : Tensor of shape (M, n), optional
            A factor of their weights.
        """
        weights = (None if w is None else w.gather(1, rows) for w in self._weights)
        batch = _taken(self._table, self._index.gather(1, rows), *weights)
        if share is None:
            return batch
        weight = share if batch.weight is None else share * batch.weight
        batch = batch._replace(weight=weight)
        if batch.label is None:
            return batch
        label_weight = share if batch.label_weight is None else share * batch.label_weight
        return batch._replace(label_weight=label_weight)

    def to(self, device: str | torch.device) -> StackedRows:
        """Return the rows on a device."""
        moved = copy.copy(self)
        vars(moved).pop("members", None)  # which stay where they are
        v1, v2, *others = self._table
        own = v1.to(device)
        moved._table = own, own if v2 is v1 else v2.to(device), *(_to(o, device) for o in others)
        moved._index = self._index.to(device)
        moved._weight, moved._label_weight = (_to(w, device) for w in self._weights)
        return moved

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self._index.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the numbers in them."""
        return self._table[0].dtype

    @property
    def _weights(self):
        return self._weight, self._label_weight


def batches(
    rows: StackedRows, batch_size: int, generators: Sequence[torch.Generator] | None = None
) -> Iterator[tuple[Batch, list[int]]]:
    """Yield the rows in batches of nearly equal size, and how many in them are each model's own.

    A :class:`torch.utils.data.DataLoader` collates row by row, which costs several times the
    training step of a small network. Here a batch is one indexing operation on the device.
    The sizes differ by one row at most, so that no batch is a noisy remainder of a few rows.

    Parameters
    ----------
    rows : StackedRows
        All of them.
    batch_size : int
        Largest number of rows in a batch.
    generators : sequence of torch.Generator, optional
        Source of a random order, one for each model; the rows in their order by default.
    """
    counts, n_batches = torch.tensor(rows.counts, device="cpu"), count_batches(rows, batch_size)
    order = None
    if generators is not None:
        orders = [
            torch.randperm(n, generator=g, device=rows.device)
            for n, g in zip(rows.counts, generators, strict=True)
        ]
        order = pad_sequence(orders, True)
    is_even = len(set(rows.counts)) == 1
    edges = torch.arange(n_batches + 1, device="cpu")[:, None] * counts // n_batches
    sizes = edges.diff(dim=0).tolist()
    edges = edges.to(rows.device)
    for i, own in enumerate(sizes):
        place = torch.arange(max(own), device=rows.device)
        picked, share = edges[i, :, None] + place, None
        if not is_even:
            n_own = edges[i + 1, :, None] - edges[i, :, None]
            is_own = place < n_own
            picked = torch.where(is_own, picked, 0)
            share = is_own * (len(place) / n_own.clamp(min=1).to(rows.dtype))
        picked = picked if order is None else order.gather(1, picked)
        yield rows.take(picked, share), own


def count_batches(rows: StackedRows, batch_size: int) -> int:
    """Return the number of batches of so many rows at most."""
    return -(-len(rows) // batch_size)


def seen_by_encoder(x: Tensor, sees_holes: bool) -> Tensor:
    """Return rows as an encoder sees them: unknown cells as zero, the mean of their column.

    Parameters
    ----------
    x : Tensor of shape (n_samples, n_features)
        Standardised rows; NaN where a cell is unknown.
    sees_holes : bool
        Whether the encoder sees beside the cells which of them are unknown.

    Returns
    -------
    Tensor of shape (n_samples, n_features or 2 n_features)
    """
    unknown = x.isnan()
    cells = x.masked_fill(unknown, 0.0)
    return torch.cat([cells, unknown.to(x)], -1) if sees_holes else cells


def as_pair(batch: Batch) -> tuple[tuple, Tensor]:
    """Return a batch as skorch's X and y, in which unknown cells are NaN."""
    X = (batch.v1, batch.weight)
    X = X if batch.label is None else (*X, batch.label, batch.label_weight)
    return X, batch.v2 if batch.known is None else batch.v2.where(batch.known, torch.nan)


def _taken(table, index, weight, label_weight):
    v1, v2, label, known = table
    # v1 and v2 may be one tensor, and then stay one.
    own = v1[index]
    target = own if v2 is v1 else v2[index]
    label, known = (None if part is None else part[index] for part in (label, known))
    return Batch(own, target, weight, label, label_weight, known)


def _rows_of(member):
    if member._index is not None:
        return member._index
    return torch.arange(len(member), device=member._table[0].device)


def _concatenate(tables):
    if len(tables) == 1:
        return tables[0]
    v1, v2, *others = zip(*tables, strict=True)
    same = all(b is a for a, b in zip(v1, v2, strict=True))
    v1 = torch.cat(v1)
    v2, (label, known) = v1 if same else torch.cat(v2), others
    if any(part is not None for part in known):  # of some all cells may be known
        ones = (torch.ones_like(part, dtype=torch.bool) for _, part, *_ in tables)
        known = torch.cat([k if k is not None else o for k, o in zip(known, ones, strict=True)])
    else:
        known = None
    return v1, v2, None if label[0] is None else torch.cat(label), known


def _stack(weights, counts):
    given = [weight for weight in weights if weight is not None]
    if not given:
        return None
    ones = (given[0].new_ones(n) for n in counts)
    weights = [one if w is None else w for w, one in zip(weights, ones, strict=True)]
    return pad_sequence(weights, True)


def _to(tensor, device):
    return None if tensor is None else tensor.to(device)


def _with_mean_one(weight):
    if weight is None or not (weight > 0).any():  # a part of the rows may have no label at all
        return weight
    return torch.where(weight > 0, weight / weight.clamp(min=0).mean(), weight)
