"""Mini-batches sliced from tensors that already lie on the device."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Dataset

__all__ = ["RowDataset", "TensorBatches"]


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
        Weights of the labels with mean one; zero where the label is unknown.
    """

    def __init__(
        self,
        v1: Tensor,
        v2: Tensor | None = None,
        weight: Tensor | None = None,
        label: Tensor | None = None,
        label_weight: Tensor | None = None,
    ):
        self.v1 = v1
        self.v2 = v1 if v2 is None else v2
        self.weight = weight
        self.label = label
        self.label_weight = label_weight

    def __len__(self) -> int:
        return len(self.v1)

    def __getitem__(self, rows) -> tuple[tuple, Tensor]:
        """Return ((v1, weight[, label, label_weight]), v2) of some rows: skorch's (X, y)."""
        return self._pair(lambda tensor: tensor[rows])

    def subset(self, rows) -> RowDataset:
        """Return some of the rows, their weights scaled to mean one."""
        part = self._map(lambda tensor: tensor[rows])
        part.weight = _with_mean_one(part.weight)
        part.label_weight = _with_mean_one(part.label_weight)
        return part

    def to(self, device: str | torch.device) -> RowDataset:
        """Return the rows on a device."""
        return self._map(lambda tensor: tensor.to(device))

    def _map(self, function) -> RowDataset:
        (v1, *others), v2 = self._pair(function)
        return RowDataset(v1, v2, *others)

    def _pair(self, function):
        # v1 and v2 may be one tensor, and then stay one.
        v1 = function(self.v1)
        v2 = v1 if self.v2 is self.v1 else function(self.v2)
        others = (self.weight, self.label, self.label_weight)[: 1 if self.label is None else 3]
        return (v1, *(None if part is None else function(part) for part in others)), v2


class TensorBatches:
    """Iterate over a :class:`RowDataset` in batches of nearly equal size.

    A :class:`torch.utils.data.DataLoader` collates row by row, which costs several times the
    training step of a small network. Here a batch is one indexing operation on the device.
    The sizes differ by one row at most, so that no batch is a noisy remainder of a few rows.

    Parameters
    ----------
    dataset : RowDataset
        The rows.
    batch_size : int
        Largest number of rows in a batch.
    shuffle : bool
        Whether each pass has its own order.
    generator : torch.Generator, optional
        Source of that order; torch's global generator by default.
    """

    def __init__(
        self,
        dataset: RowDataset,
        batch_size: int,
        shuffle: bool = False,
        generator: torch.Generator | None = None,
    ):
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.generator = generator

    def __len__(self) -> int:
        return math.ceil(len(self.dataset) / self.batch_size)

    def __iter__(self) -> Iterator:
        n_rows, n_batches = len(self.dataset), len(self)
        if self.shuffle:
            device = self.dataset.v1.device
            order = torch.randperm(n_rows, generator=self.generator, device=device)
        for i in range(n_batches):
            start, stop = i * n_rows // n_batches, (i + 1) * n_rows // n_batches
            yield self.dataset[order[start:stop] if self.shuffle else slice(start, stop)]


def _with_mean_one(weight):
    if weight is None or not weight.any():  # a part of the rows may have no label at all
        return weight
    return weight / weight.mean()
