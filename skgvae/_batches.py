"""Mini-batches sliced from tensors that already lie on the device."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

__all__ = ["RowDataset", "StackedRows", "TensorBatches"]

_OF_EACH_MODEL = ("_index", "weight", "label_weight", "lengths")


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
    """

    def __init__(
        self,
        v1: Tensor,
        v2: Tensor | None = None,
        weight: Tensor | None = None,
        label: Tensor | None = None,
        label_weight: Tensor | None = None,
    ):
        # A subset shares the table and has an index into it, but weights of its own.
        self._table = v1, v1 if v2 is None else v2, label
        self._index = None
        self.weight = weight
        self.label_weight = label_weight

    def __len__(self) -> int:
        return len(self._table[0] if self._index is None else self._index)

    def __getitem__(self, rows) -> tuple[tuple, Tensor]:
        """Return ((v1, weight[, label, label_weight]), v2) of some rows: skorch's (X, y)."""
        weights = (None if w is None else w[rows] for w in (self.weight, self.label_weight))
        return _batch(self._table, rows if self._index is None else self._index[rows], *weights)

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

    def subset(self, rows) -> RowDataset:
        """Return some of the rows, their weights scaled to mean one; the table is shared."""
        part = self._like(self._table)
        part._index = _rows_of(self)[rows]
        part.weight, part.label_weight = (
            _with_mean_one(None if w is None else w[rows])
            for w in (self.weight, self.label_weight)
        )
        return part

    def to(self, device: str | torch.device) -> RowDataset:
        """Return the rows on a device."""
        part = self._like(_table_to(self._table, device))
        part._index = _to(self._index, device)
        part.weight, part.label_weight = (_to(w, device) for w in (self.weight, self.label_weight))
        return part

    def _like(self, table) -> RowDataset:
        part = RowDataset(*table[:2], label=table[2])
        part._table = table
        return part

    def _column(self, j):
        column = self._table[j]
        return column if column is None or self._index is None else column[self._index]


class StackedRows(Dataset):
    """Rows of several models that are trained together.

    Subsets of one table share it here too. ``lengths`` is None where all have equally many rows;
    else tables of rows are as long as the longest, and of a shorter one the end has no meaning.

    Parameters
    ----------
    members : sequence of RowDataset
        The rows of each model.
    """

    def __init__(self, members: Sequence[RowDataset]):
        tables = {tuple(map(id, member._table)): member._table for member in members}
        ends = accumulate(len(v1) for v1, *_ in tables.values())
        starts = {i: end - len(tables[i][0]) for i, end in zip(tables, ends, strict=True)}
        self._table = _concatenate(list(tables.values()))
        self.n_members, self.n_rows = len(members), max(map(len, members))
        lengths = torch.tensor([len(member) for member in members], device="cpu")
        self.lengths = None if (lengths == self.n_rows).all() else lengths
        self._index = None
        if len(members) > 1 or members[0]._index is not None:
            self._index = pad_sequence(
                [_rows_of(m) + starts[tuple(map(id, m._table))] for m in members], True
            )
        self.weight = _stack([member.weight for member in members], lengths)
        self.label_weight = _stack([member.label_weight for member in members], lengths)

    def __len__(self) -> int:
        return self.n_rows

    def to(self, device: str | torch.device) -> StackedRows:
        """Return the rows on a device."""
        moved = copy.copy(self)
        moved._table = _table_to(self._table, device)
        for name in _OF_EACH_MODEL:
            setattr(moved, name, _to(getattr(self, name), device))
        return moved

    def keep_(self, models: Tensor) -> None:
        """Go on with the rows of these models alone."""
        self.n_members = len(models)
        for name in _OF_EACH_MODEL:
            tensor = getattr(self, name)
            setattr(self, name, None if tensor is None else tensor[models])

    def __getitem__(self, rows) -> tuple[tuple, Tensor]:
        """Return ((v1, weight[, label, label_weight]), v2) with an axis for the models.

        Parameters
        ----------
        rows : slice or Tensor of shape (n_models, n)
            Some of the rows of each model.
        """
        pick = _pick(rows, self._table[0].device)
        index = pick(self._index)
        weights = (None if w is None else pick(w) for w in (self.weight, self.label_weight))
        return _batch(self._table, index, *weights)


class TensorBatches:
    """Iterate over a data set in batches of nearly equal size.

    A :class:`torch.utils.data.DataLoader` collates row by row, which costs several times the
    training step of a small network. Here a batch is one indexing operation on the device.
    The sizes differ by one row at most, so that no batch is a noisy remainder of a few rows.

    Parameters
    ----------
    dataset : RowDataset or StackedRows
        The rows.
    batch_size : int
        Largest number of rows in a batch.
    shuffle : bool
        Whether each pass has its own order.
    generators : sequence of torch.Generator, optional
        Source of that order, one for each model; torch's global generator by default.

    Attributes
    ----------
    counts : list of int or None
        Of models with different numbers of rows, how many rows each has in the latest batch.
        Those that it has less than the largest are at the end, with weight zero, and the others
        weigh the more: the mean over all is the mean over its own.
    """

    counts = None

    def __init__(
        self,
        dataset: RowDataset | StackedRows,
        batch_size: int,
        shuffle: bool = False,
        generators: Sequence[torch.Generator] | None = None,
    ):
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.generators = generators

    def __len__(self) -> int:
        return math.ceil(len(self.dataset) / self.batch_size)

    def __iter__(self) -> Iterator:
        n_rows, n_batches = len(self.dataset), len(self)
        order = self._draw_order() if self.shuffle else None
        if getattr(self.dataset, "lengths", None) is not None:
            yield from self._uneven_batches(order)
            return
        for i in range(n_batches):
            rows = slice(i * n_rows // n_batches, (i + 1) * n_rows // n_batches)
            yield self.dataset[rows if order is None else order[..., rows]]

    def _uneven_batches(self, order):
        lengths, n_batches = self.dataset.lengths, len(self)
        edges = torch.arange(n_batches + 1, device=lengths.device)[:, None] * lengths // n_batches
        counts = edges.diff(dim=0)
        for i, self.counts in enumerate(counts.tolist()):
            place = torch.arange(max(self.counts), device=lengths.device)
            is_own = place < counts[i, :, None]
            rows = torch.where(is_own, edges[i, :, None] + place, 0)
            rows = rows if order is None else order.gather(1, rows)
            share = is_own * (len(place) / counts[i, :, None].to(self.dataset._table[0].dtype))
            yield _weigh(self.dataset[rows], share)

    def _draw_order(self):
        device = self.dataset._table[0].device
        stacked = isinstance(self.dataset, StackedRows)
        lengths = [len(self.dataset)] * (self.dataset.n_members if stacked else 1)
        if stacked and self.dataset.lengths is not None:
            lengths = self.dataset.lengths.tolist()
        generators = self.generators or [None] * len(lengths)
        orders = [
            torch.randperm(n, generator=g, device=device)
            for n, g in zip(lengths, generators, strict=True)
        ]
        return pad_sequence(orders, True) if stacked else orders[0]


def _batch(table, index, weight, label_weight):
    v1, v2, label = table
    # v1 and v2 may be one tensor, and then stay one.
    rows = v1[index]
    targets = rows if v2 is v1 else v2[index]
    if label is None:
        return (rows, weight), targets
    return (rows, weight, label[index], label_weight), targets


def _pick(rows, device):
    """Return a function that takes these rows of a (n_models, n_rows) tensor, None for all."""
    if isinstance(rows, slice):
        every = torch.arange(rows.start, rows.stop, device=device)[None]
        return lambda t: every if t is None else t[:, rows]
    return lambda t: rows if t is None else t.gather(1, rows)


def _rows_of(member):
    if member._index is not None:
        return member._index
    return torch.arange(len(member), device=member._table[0].device)


def _concatenate(tables):
    if len(tables) == 1:
        return tables[0]
    v1, v2, label = zip(*tables, strict=True)
    same = all(b is a for a, b in zip(v1, v2, strict=True))
    v1 = torch.cat(v1)
    return v1, v1 if same else torch.cat(v2), None if label[0] is None else torch.cat(label)


def _stack(weights, lengths):
    given = [weight for weight in weights if weight is not None]
    if not given:
        return None
    lengths = lengths.tolist()
    ones = (given[0].new_ones(n) for n in lengths)
    weights = [one if w is None else w for w, one in zip(weights, ones, strict=True)]
    return pad_sequence(weights, True)


def _weigh(batch, share):
    """Return a batch with its weights times a factor for each row."""
    (v1, weight, *labels), v2 = batch
    weight = share if weight is None else share * weight
    if labels:
        label, label_weight = labels
        labels = label, share if label_weight is None else share * label_weight
    return (v1, weight, *labels), v2


def _table_to(table, device):
    v1, v2, label = table
    moved = v1.to(device)
    return moved, moved if v2 is v1 else v2.to(device), _to(label, device)


def _to(tensor, device):
    return None if tensor is None else tensor.to(device)


def _with_mean_one(weight):
    if weight is None or not (weight > 0).any():  # a part of the rows may have no label at all
        return weight
    return torch.where(weight > 0, weight / weight.clamp(min=0).mean(), weight)
