"""Which rows belong together? Copies of one row, and the measurements of one object."""

import numpy as np
from sklearn.utils import gen_batches

from ._scaling import distinct_values

_ROWS = 65536
# A column is continuous if a value stands in fewer than so many different rows, on average.
_MAX_REPEATS = 5
_ON_GRID = 1e-3  # share of the spacing by which a value may miss its place


def merge_copies(weight, groups, *tables, labels=None):
    """Let copies of a row count as one row with their weights together.

    Copies agree in all columns, of which at least one is continuous. Equal rows of grids and
    categories are no copies: there they are what the probability of a row is made of.

    Parameters
    ----------
    weight : ndarray of shape (n_samples,) or None
        Weights of the rows.
    groups : ndarray of shape (n_samples,) or None
        Objects; equal rows of two objects are no copies.
    *tables : ndarray of shape (n_samples, n_columns)
        Rows. Tables may be the same object.
    labels : ndarray of shape (n_samples,), optional
        Copies have the same label. Copies but for the label stay rows of their own, which
        become one group.

    Returns
    -------
    weight, groups : ndarray or None
        Of the rows that are kept, weights with mean one.
    kept : ndarray of shape (n_kept,) or slice
        Indices of these rows, in their order.
    """
    tables = list({id(table): table for table in tables}.values())
    first = _first_equal(tables if groups is None else [*tables, groups[:, None]])
    different = first == np.arange(len(first))
    if different.all() or not any(_has_continuous(table[different]) for table in tables):
        return weight, groups, slice(None)
    if labels is not None:
        groups = first if groups is None else groups
        first = _first_equal([first[:, None], np.unique(labels, return_inverse=True)[1][:, None]])
    kept, inverse = np.unique(first, return_inverse=True)
    total = np.bincount(inverse, weight)
    weight = None if (total == total[0]).all() else total / total.mean()
    if groups is not None:
        groups = np.unique(groups[kept], return_inverse=True)[1]
        groups = None if len(np.unique(groups)) == len(kept) else groups
    return weight, groups, kept


def _first_equal(tables):
    """Return, for each row, the index of the first row that equals it."""
    keys = _hash_rows(tables)
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    first = first[inverse]
    repeated = np.flatnonzero(first != np.arange(len(first)))
    for rows in gen_batches(max(1, len(repeated)), _ROWS):  # chance may give two rows one key
        own, other = repeated[rows], first[repeated[rows]]
        equal = np.logical_and.reduce([_equal(t[own], t[other]) for t in tables])
        first[own[~equal]] = own[~equal]
    return first


def _hash_rows(tables):
    """Return a number for each row; equal rows have equal numbers."""
    keys = np.zeros(len(tables[0]), np.uint64)
    rng = np.random.default_rng(0)
    for table in tables:
        factors = rng.integers(2**63, size=table.shape[1], dtype=np.uint64) * 2 + 1
        for rows in gen_batches(len(table), _ROWS):
            bits = np.ascontiguousarray(table[rows] + 0.0, np.float64).view(np.uint64)  # no -0.0
            keys[rows] += ((bits ^ (bits >> 29)) * factors).sum(1, dtype=np.uint64)
    return keys


def _equal(a, b):
    return ((a == b) | ((a != a) & (b != b))).all(1)


def _has_continuous(table):
    return any(_is_continuous(column) for column in table.T)


def _is_continuous(column):
    """Say whether the values of different rows rarely repeat, and do not fill a grid."""
    column = column[np.isfinite(column)]
    if len(column) < 2:
        return False
    values, _ = distinct_values(column)
    if len(values) * _MAX_REPEATS <= len(column) or len(values) == 1:
        return False
    steps = (values - values[0]) / np.diff(values).min()
    on_grid = np.abs(steps - np.round(steps)).max() < _ON_GRID
    return not (on_grid and 2 * len(values) > steps[-1] + 1)
