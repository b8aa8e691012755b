"""Rows, weights and groups as the user gives them: what scikit-learn's own checks leave open."""

from collections.abc import Mapping
from datetime import date, time, timedelta
from numbers import Integral, Number

import numpy as np
from sklearn.utils import check_array, check_consistent_length, column_or_1d
from sklearn.utils.validation import _check_sample_weight, _check_y

from ._columns import RawColumn

SMALLEST = float(np.finfo(np.float32).tiny)
_DATES = np.datetime64, np.timedelta64, date, time, timedelta
# Of types in numpy, pandas, polars and pyarrow.
_NAMES_OF_DATES = "date", "time", "period", "duration", "interval"


def refuse_dates(table, name="X"):
    """Raise a ValueError that names a column of dates or times: these are no numbers."""
    for where, column in _columns(table, name):
        if _are_dates(column):
            raise ValueError(
                f"{where} holds dates or times, and only numbers are taken. Use numbers in its "
                "place, such as days since the first date, or the month."
            )


def with_nan(table):
    """Return a table in which pandas' NA among objects, which is no number, is NaN."""
    dtypes = getattr(table, "dtypes", None)
    if dtypes is not None and hasattr(table, "isna") and "object" in map(str, dtypes):
        return table.where(~table.isna(), np.nan)
    return table


def _columns(table, name):
    """Yield a description of each column that may hold dates, and the column."""
    names = getattr(table, "column_names", None)  # of pyarrow
    if names is None and hasattr(table, "__getitem__"):
        names = getattr(table, "columns", None)
    if names is not None:
        for column in dict.fromkeys(names):
            yield f"Column {column!r} of {name}", table[column]
        return
    if isinstance(table, (list, tuple)) and not _starts_with_numbers(table):
        try:
            table = np.asarray(table)
        except ValueError:  # rows of different lengths: scikit-learn says so
            return
    if str(getattr(table, "dtype", "")) == "object" and getattr(table, "ndim", 1) == 2:
        yield from ((name, column) for column in np.asarray(table).T)
    else:
        yield name, table


def _starts_with_numbers(rows):
    first = rows[0] if len(rows) else 0
    first = first[0] if isinstance(first, (list, tuple)) and len(first) else first
    return isinstance(first, Number)


def _are_dates(column):
    kind = getattr(column, "dtype", getattr(column, "type", None))
    kind = getattr(getattr(kind, "categories", None), "dtype", kind)  # of categories
    if str(kind).lower().startswith(_NAMES_OF_DATES):
        return True
    if str(kind) != "object":
        return False
    return any(isinstance(entry, _DATES) for entry in np.asarray(column).ravel())


def check_y(estimator, X, y, **params):
    """Return validated targets of rows X, which are validated already."""
    if y is None:
        name = type(estimator).__name__
        raise ValueError(f"{name} requires y to be passed, but the target y is None.")
    y = _check_y(y, estimator=estimator, **params)
    check_consistent_length(X, y)
    return y


def check_groups(groups, X):
    """Return the object that each row belongs to, as numbers from 0 on; None stays None."""
    if groups is None:
        return None
    groups = column_or_1d(groups)
    check_consistent_length(X, groups)
    try:
        return np.unique(groups, return_inverse=True)[1]
    except TypeError as error:
        raise ValueError("groups must be all numbers or all strings, and none missing.") from error


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


def check_given(given, n_features, names, levels=()):
    """Return given cells as a table of one row, of shape (1, n_features), NaN elsewhere.

    Parameters
    ----------
    given : dict, Series, or one row
        Values by name or position of the column, or a row with NaN.
    n_features : int
        Number of columns.
    names : sequence of str
        Their names, empty if they have none.
    levels : dict of int to tuple
        Levels of the columns of names, by position; the table has their codes.
    """
    if not hasattr(given, "items") and levels:
        given = dict(enumerate(np.ravel(np.asarray(given, dtype=object))))
    if hasattr(given, "iloc"):  # of pandas
        given = given.iloc[0] if given.ndim == 2 and len(given) == 1 else given
        given = given.to_dict() if given.ndim == 1 else given
    if isinstance(given, Mapping):
        row, places = np.full((1, n_features), np.nan), {name: j for j, name in enumerate(names)}
        for key, value in given.items():
            is_place = isinstance(key, Integral) and 0 <= key < n_features
            if key not in places and not is_place:
                columns = list(names) or f"positions from 0 to {n_features - 1}"
                raise ValueError(f"given has {key!r}, which is no column: there are {columns}.")
            place = places.get(key, key)
            if place in levels:
                own = np.empty(1, dtype=object)
                own[0] = value
                (value,) = RawColumn(own).to_codes(levels[place], key, False)
            try:
                row[0, place] = value
            except (TypeError, ValueError) as error:
                raise ValueError(f"given[{key!r}] must be a number, got {value!r}.") from error
    else:
        row = np.atleast_2d(np.asarray(given, dtype=np.float64))
    if row.shape != (1, n_features):
        raise ValueError(
            f"given must be a dict or one row of {n_features} cells, NaN where none is given, got "
            f"shape {np.shape(given)}."
        )
    return check_array(row, ensure_all_finite="allow-nan", input_name="given")
