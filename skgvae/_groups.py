"""Which rows are copies of one row? They count as one, with their weights together."""

import numpy as np

# A column is continuous if it has so many values, of which each stands in fewer than so many
# different rows on average. Rare values stand together in fewer than so many.
_MIN_VALUES, _MAX_REPEATS = 20, 5
_OFTEN = 0.05  # share of zeros in a column of amounts
_ON_GRID = 1e-3  # share of the spacing by which a value may miss its place
# Values that differ by less, as a share of the largest, are copies of one value in float32.
_SAME = 4 * float(np.finfo(np.float32).eps)


def merge_copies(weight, groups, *tables, labels=None):
    """Let copies of a row count as one row with their weights together.

    Copies agree in all columns, up to rounding in float32, and their values in those that are
    continuous are rare. A column is continuous if its values rarely repeat in different rows and
    do not fill a grid; a column that is alone also must not be zero often, as amounts are. Other
    equal rows, as of grids and categories, are what the probability of a row is made of.

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
    kept : ndarray of shape (n_kept,)
        Indices of these rows, in their order.
    """
    tables = list({id(table): table for table in tables}.values())
    columns = [column for table in tables for column in table.T]
    first = _first_equal(columns if groups is None else [*columns, groups])
    everything = np.arange(len(first))
    is_amount = len(columns) == 1 and np.mean(columns[0] == 0) > _OFTEN
    if is_amount or np.array_equal(first, everything):
        return weight, groups, everything
    different = np.flatnonzero(first == everything)
    is_copied = np.zeros(len(first), bool)
    is_copied[different] = _are_rare([c[different].astype(np.float64) for c in columns])
    first = np.where(is_copied[first], first, everything)
    if labels is not None:
        groups = first if groups is None else groups
        first = _first_equal([first, labels])
    kept, inverse = np.unique(first, return_inverse=True)
    total = np.bincount(inverse, weight)
    weight = None if np.ptp(total) <= 1e-9 * total.max() else total / total.mean()
    if groups is not None:
        groups = groups[kept]
        groups = None if len(np.unique(groups)) == len(kept) else groups
    return weight, groups, kept


def _first_equal(columns):
    """Return, for each row, the index of the first row that equals it."""
    rng = np.random.default_rng(0)
    keys = np.zeros(len(columns[0]), np.uint64)  # equal for equal rows, for others but by chance
    for column in columns:
        factor = rng.integers(2**62, dtype=np.uint64) * 2 + 1
        keys += _number_values(column).astype(np.uint64) * factor
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return first[inverse]


def _number_values(column):
    """Return numbers from 1 on, equal for values that are copies of one value."""
    if column.dtype.kind != "f":
        return 1 + np.unique(column, return_inverse=True)[1]
    values, inverse = np.unique(column, return_inverse=True)
    same = _SAME * np.abs(values[np.isfinite(values)]).max(initial=0.0)
    with np.errstate(over="ignore", invalid="ignore"):
        is_new = np.r_[True, ~(np.diff(values) <= same)]
        starts = np.flatnonzero(is_new)
        spans = values[np.r_[starts[1:] - 1, len(values) - 1]] - values[starts]
    # Values so dense that they run into each other over a distance are as different as they are.
    number = np.cumsum(is_new) if not (spans > 4 * same).any() else np.arange(1, len(values) + 1)
    return number[inverse]


def _are_rare(columns):
    """Say of each of some different rows whether chance would not give its values twice."""
    kinds = [_describe(column) for column in columns]
    if len(columns) == 1:  # its rows are all different, whatever it is
        kinds = [(is_fine and is_irregular, False) for is_fine, is_irregular in kinds]
    n = len(columns[0])
    expected = np.full(n, float(n))  # rows with these values, of continuous columns
    for column, (is_fine, _) in zip(columns, kinds, strict=True):
        if is_fine:
            _, inverse, counts = np.unique(column, return_inverse=True, return_counts=True)
            expected *= np.where(np.isnan(column), 1.0, counts[inverse] / n)
    # Of few different rows two columns that have no value twice, and no grid.
    unlike = [
        is_irregular and len(np.unique(column)) == len(column)
        for column, (_, is_irregular) in zip(columns, kinds, strict=True)
    ]
    is_continuous = any(is_fine for is_fine, _ in kinds)
    return (is_continuous & (expected < _MAX_REPEATS)) | (sum(unlike) >= 2)


def _describe(column):
    """Say whether a column is continuous, and whether it has values off any grid."""
    values = np.unique(column[np.isfinite(column)])
    if len(values) < 2:
        return False, False
    with np.errstate(over="ignore"):
        steps = (values - values[0]) / np.diff(values).min()
    is_irregular = not np.abs(steps - np.round(steps)).max() < _ON_GRID
    is_dense = not is_irregular and 2 * len(values) > steps[-1] + 1
    is_fine = len(values) >= _MIN_VALUES and len(values) * _MAX_REPEATS > len(column)
    return is_fine and not is_dense, is_irregular
