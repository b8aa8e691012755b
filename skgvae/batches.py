"""Mini-batches sliced from tensors that already lie on the device."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Dataset

__all__ = ["RowDataset", "TensorBatches"]


class RowDataset(Dataset):
    """Rows of v1, v2 and their weights.

    Parameters
    ----------
    v1 : Tensor of shape (n_samples, in_features)
        Input.
    v2 : Tensor of shape (n_samples, out_features), optional
        Target; v1 itself, without a copy, by default.
    weight : Tensor of shape (n_samples,), optional
        Row weights with mean one.
    """

    def __init__(self, v1: Tensor, v2: Tensor | None = None, weight: Tensor | None = None):
        self.v1 = v1
        self.v2 = v1 if v2 is None else v2
        self.weight = weight

    def __len__(self) -> int:
        return len(self.v1)

    def __getitem__(self, rows) -> tuple[tuple[Tensor, Tensor | None], Tensor]:
        """Return ((v1, weight), v2) of some rows: skorch's (X, y)."""
        v1 = self.v1[rows]
        v2 = v1 if self.v2 is self.v1 else self.v2[rows]
        weight = None if self.weight is None else self.weight[rows]
        return (v1, weight), v2

    def subset(self, rows) -> RowDataset:
        """Return some of the rows, their weights scaled to mean one."""
        (v1, weight), v2 = self[rows]
        weight = None if weight is None else weight / weight.mean()
        return RowDataset(v1, None if v2 is v1 else v2, weight)

    def to(self, device: str | torch.device) -> RowDataset:
        """Return the rows on a device."""
        v1 = self.v1.to(device)
        v2 = v1 if self.v2 is self.v1 else self.v2.to(device)
        weight = None if self.weight is None else self.weight.to(device)
        return RowDataset(v1, v2, weight)


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
