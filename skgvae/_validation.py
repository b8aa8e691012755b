"""Rows, weights and groups as the user gives them: what scikit-learn's own checks leave open."""

from datetime import date, time, timedelta

import numpy as np
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils.validation import _check_sample_weight

SMALLEST = float(np.finfo(np.float32).tiny)
_DATES = np.datetime64, np.timedelta64, date, time, timedelta
_NAMES_OF_DATES = "date", "time", "period", "duration"  # of types in numpy, pandas and polars


def refuse_dates(table, name="X"):
    """Raise a ValueError that names a column of dates or times: these are no numbers."""
    if hasattr(table, "columns") and hasattr(table, "__getitem__"):
        columns = [(f"Column {c!r} of {name}", table[c]) for c in dict.fromkeys(table.columns)]
    else:
        columns = [(name, table)]
    for where, column in columns:
        if _are_dates(column):
            raise ValueError(
                f"{where} holds dates or times, and only numbers are taken. Use numbers in its "
                "place, such as days since the first date, or the month."
            )


def _are_dates(column):
    if hasattr(column, "dtype"):
        if str(column.dtype).lower().startswith(_NAMES_OF_DATES):
            return True
        if column.dtype != object or not hasattr(column, "__array__"):
            return False
        entries = np.asarray(column).ravel()[:100]
    else:
        entries = column[:1] if isinstance(column, (list, tuple)) else []
        entries = entries[0] if len(entries) and isinstance(entries[0], (list, tuple)) else entries
    return any(isinstance(entry, _DATES) for entry in entries)


def check_groups(groups, X):
    """Return the object that each row belongs to, as numbers from 0 on; None stays None."""
    if groups is None:
        return None
    groups = column_or_1d(groups)
    check_consistent_length(X, groups)
    return np.unique(groups, return_inverse=True)[1]


def drop_unweighted(sample_weight, X, *arrays, n_needed=2):
    """Return the weights, with mean one, and the rows of the arrays where they are positive.

    An array may be None and stays so.
    """
    if sample_weight is None:
        return None, X, *arrays
    weight = _check_sample_weight(sample_weight, X, ensure_non_negative=True)
    weight = weight / (weight.max() or 1.0)  # so that the sum of huge ones stays finite
    kept = weight > SMALLEST  # others are zero in float32
    if kept.sum() < n_needed:
        raise ValueError(
            f"sample_weight is positive for {kept.sum()} rows, if what is zero in float32 beside "
            f"the largest does not count; {n_needed} are needed."
        )
    weight = weight[kept]
    parts = (array if array is None else array[kept] for array in (X, *arrays))
    return weight / weight.mean(), *parts
