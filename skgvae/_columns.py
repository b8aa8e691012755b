"""What kinds of columns has a table? From dtypes and values, or as the user says."""

from collections.abc import Mapping
from numbers import Integral, Real
from typing import NamedTuple

import numpy as np

KINDS = "continuous", "positive", "bounded", "integer", "grid", "categorical"
MAX_LEVELS = 50
MIN_VALUES = 20  # of a column, to tell what it is
MAX_DECIMALS = 3  # of the values of a grid that is found
# Share of the values that have to agree with a kind that is found: a few may be averages, or zeros
# that stand for little.
_MOST = 0.95
_MAX_STEPS = 1e12  # from the lowest to the highest value of a grid
_EPS = 4 * float(np.finfo(np.float32).eps)  # in which values may have been rounded


class Column(NamedTuple):
    """The kind of a column, and which values it can have."""

    kind: str = "continuous"
    step: float = 0.0
    """Spacing of the grid; zero if there is none."""
    low: float = -np.inf
    """Lowest value, of a grid, or the bound that values stay above."""
    high: float = np.inf
    """Highest value, of a grid, or the bound that values stay below."""
    levels: tuple = ()
    """Names of a category, in the order of their codes."""

    def __repr__(self):
        parts = [self.kind]
        if self.kind == "grid":
            parts.append(f"step={self.step:g}")
        if (
            self.kind in ("bounded", "integer", "grid")
            and np.isfinite([self.low, self.high]).any()
        ):
            parts.append(f"from {self.low:g} to {self.high:g}")
        if self.levels:
            parts.append(f"{len(self.levels)} levels")
        return " ".join(parts)

    def holds(self, values):
        """Say which values are within the bounds; unknown ones (NaN) count as such.

        A value off the grid has the density of its interval, and zero among positive values that
        of the smallest.
        """
        if self.kind == "bounded":
            is_held = (values > self.low) & (values < self.high)
        elif self.kind == "positive":
            is_held = values >= 0
        else:
            is_held = (values > self.low - self.step / 2) & (values < self.high + self.step / 2)
        return is_held | np.isnan(values)


def column_of(values):
    """Return the kind of a column of numbers, by its known values.

    Whole numbers are integers, from zero on if none is negative, and zero or one if they are
    nothing else. Numbers with at most three decimals are on a grid. Others of which none is
    negative are positive. In 5 % of the rows there may be more decimals, or zeros. If more are
    zero, they are on the grid of their decimals, or on one that is finer than a thousandth of the
    median of the others: so zero has a probability. Fewer than 20 values, or one value alone, say
    nothing.
    """
    values = values[~np.isnan(values)].astype(np.float64)
    if len(values) < MIN_VALUES or values.min() == values.max():
        return Column()
    low = 0.0 if (values >= 0).all() else -np.inf
    for decimals in range(MAX_DECIMALS + 1):
        if _are_near(values * 10.0**decimals):
            if decimals:
                return Column("grid", 10.0**-decimals, low)
            return Column("integer", 1.0, low, 1.0 if low == 0 and (values <= 1).all() else np.inf)
    if low < 0:
        return Column()
    positive = values[values > 0]
    if len(positive) >= _MOST * len(values):
        return Column("positive", low=0.0)
    for decimals in range(MAX_DECIMALS + 1, 9):
        if _are_near(values * 10.0**decimals):
            return Column("grid", 10.0**-decimals, low)
    return Column("grid", 10.0 ** (np.floor(np.log10(np.median(positive))) - 3), low)


def _are_near(places):
    # Whether most are whole numbers but for rounding.
    with np.errstate(over="ignore", invalid="ignore"):
        spread = np.ptp(places)
        off = np.minimum(_EPS * np.maximum(np.abs(places), spread), 0.01)
        is_near = np.abs(places - np.round(places)) <= off
    return is_near.mean() >= _MOST and spread <= _MAX_STEPS


def column_as(spec, values, name):
    """Return a column of numbers as the user says.

    Parameters
    ----------
    spec : str or tuple
        A kind, or a kind and its numbers: ("bounded", low, high), ("grid", step),
        ("integer", low, high), ("grid", step, low, high).
    values : ndarray of shape (n_samples,)
        Its values, some perhaps NaN. ValueError if they do not agree with the kind.
    name : str or int
        Of the column, for messages.
    """
    if not isinstance(spec, (str, tuple, list)) or not spec:
        raise ValueError(f"columns[{name!r}] must be a kind, perhaps with numbers, got {spec!r}.")
    kind, *numbers = (spec,) if isinstance(spec, str) else spec
    if not all(isinstance(n, Real) for n in numbers):
        raise ValueError(f"columns[{name!r}] must be a kind and numbers, got {spec!r}.")
    known = values[~np.isnan(values)]
    if kind == "continuous":
        column, n_numbers = Column(), (0,)
    elif kind == "positive":
        column, n_numbers = Column(kind, low=0.0), (0,)
    elif kind == "bounded":
        if not numbers:
            highest = known.max(initial=0.0)
            numbers = [0.0, 1.0 if highest <= 1 else 100.0]
        column, n_numbers = Column(kind, 0.0, *numbers), (2,)
    elif kind == "integer":
        low = 0.0 if (known >= 0).all() else -np.inf
        column, n_numbers = Column(kind, 1.0, *(numbers or (low,))), (0, 2)
    elif kind == "grid":
        found = column_of(known)
        if not numbers and not found.step:
            raise ValueError(
                f"Column {name!r} has more than {MAX_DECIMALS} decimals: say its step, "
                f"columns={{{name!r}: ('grid', step)}}."
            )
        step, *ends = numbers or (found.step,)
        low = 0.0 if (known >= 0).all() else -np.inf
        column, n_numbers = Column(kind, float(step), *(ends or (low,))), (0, 1, 3)
        if not step > 0:
            raise ValueError(f"The step of column {name!r} must be positive, got {step!r}.")
    else:
        raise ValueError(f"columns[{name!r}] must be one of {KINDS}, got {kind!r}.")
    if len(numbers) not in n_numbers:
        raise ValueError(f"columns[{name!r}]={spec!r} has another number of numbers than {kind}.")
    if not column.low < column.high:
        raise ValueError(f"The bounds of column {name!r} are {column.low} and {column.high}.")
    check_held(known, column, name)
    return column


def check_held(values, column, name):
    """Raise a ValueError if known values are none that the column can have."""
    wrong = values[~column.holds(values)]
    if len(wrong):
        raise ValueError(
            f"Column {name!r} is {column!r}, and {wrong[0]:g} is no such value"
            f" ({len(wrong)} in all). Say another kind of column by columns={{{name!r}: ...}}."
        )


def specs_by_place(spec, names):
    """Return what the user says of some columns, by their position."""
    if not isinstance(spec, Mapping):
        return {}
    places, said = {name: j for j, name in enumerate(names)}, {}
    for key, own in spec.items():
        is_place = (
            isinstance(key, Integral) and not isinstance(key, bool) and 0 <= key < len(names)
        )
        if key not in places and not is_place:
            raise ValueError(f"columns has {key!r}, which is no column: there are {list(names)}.")
        said[places.get(key, key)] = own
    return said


# Names in place of numbers


class RawColumn(NamedTuple):
    """A column as the user gives it."""

    values: np.ndarray
    levels: tuple = ()
    """Of a category that says what they are."""

    @property
    def holds_names(self):
        """Whether there are names in it, and not numbers."""
        if self.values.dtype.kind in "USb" or self.levels:
            return True
        return self.values.dtype.kind == "O" and any(
            isinstance(value, (str, bool, np.bool_)) for value in self.values.tolist()
        )

    def find_levels(self, name):
        """Return the levels in order; of more than 50 a ValueError."""
        levels = self.levels
        if not levels:
            found = {value for value in self.values.tolist() if not _is_null(value)}
            levels = sorted(found, key=lambda value: (isinstance(value, str), value))
        if len(levels) > MAX_LEVELS:
            raise ValueError(
                f"Column {name!r} has {len(levels)} names, and a category has at most "
                f"{MAX_LEVELS}. Leave the column out, or join names that are rare."
            )
        return tuple(levels)

    def to_codes(self, levels, name, ignore_unknown):
        """Return the number of each value among the levels, NaN where it is unknown.

        Parameters
        ----------
        levels : tuple
            Of the category.
        name : str or int
            Of the column, for messages.
        ignore_unknown : bool
            Whether a value that is no level counts as unknown; otherwise it is a ValueError.
        """
        codes, values = {level: float(i) for i, level in enumerate(levels)}, self.values.tolist()
        for value in set(values) - codes.keys():
            if not (_is_null(value) or ignore_unknown):
                raise ValueError(
                    f"Column {name!r} has {value!r}, which is none of {list(levels)}. With "
                    "handle_unknown='ignore' such a cell counts as unknown."
                )
        return np.array([codes.get(value, np.nan) for value in values], dtype=np.float64)

    def to_numbers(self, name):
        """Return numbers as float64, NaN where they are unknown.

        Parameters
        ----------
        name : str or int
            Of the column, for the message if there are others.
        """
        values = self.values
        if values.dtype.kind == "O":
            values = [np.nan if _is_null(value) else value for value in values]
        try:
            return np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise type(error)(f"Column {name!r} held numbers in fit: {error}") from error


def columns_of_table(X):
    """Return the columns of a table that holds names, None if it holds numbers alone.

    A table of pandas, polars or pyarrow with a column of strings, of bool or of a category has
    some, and an array or a list of rows of strings or objects.
    """
    dtypes = getattr(X, "dtypes", None)
    if hasattr(dtypes, "items") and {getattr(t, "kind", "O") for t in dtypes} <= set("fiu"):
        return None
    names = getattr(X, "column_names", None)
    if names is None and hasattr(X, "__getitem__"):
        names = getattr(X, "columns", None)
    if names is not None:
        if len(set(names)) < len(names):
            return None  # scikit-learn knows what to do
        found = [_raw(X[name]) for name in names]
    else:
        if isinstance(X, (list, tuple)):
            try:
                X = np.asarray(X, dtype=object if _has_strings(X) else None)
            except ValueError:
                return None
        if not isinstance(X, np.ndarray) or X.ndim != 2 or X.dtype.kind not in "OUS":
            return None
        found = [RawColumn(column) for column in X.T]
    return found if any(column.holds_names for column in found) else None


def objects_of(raw):
    """Return raw columns as one array of objects, of shape (n_samples, n_features)."""
    found = np.empty((len(raw[0].values), len(raw)), dtype=object)
    for j, column in enumerate(raw):
        found[:, j] = column.values
    return found


def are_unknown(table):
    """Say which cells of an array of objects are None, NaN or pandas' NA."""
    flags = np.fromiter((_is_null(value) for value in table.ravel()), bool, table.size)
    return flags.reshape(table.shape)


def are_equal(table, number):
    """Say which cells of an array of objects are a number; True is not 1."""
    flags = (
        not isinstance(value, (bool, np.bool_, str)) and value == number for value in table.ravel()
    )
    return np.fromiter(flags, bool, table.size).reshape(table.shape)


def _raw(series):
    categories = getattr(getattr(series, "dtype", None), "categories", None)
    levels = tuple(categories.tolist()) if hasattr(categories, "tolist") else ()
    return RawColumn(np.asarray(series), levels)


def _has_strings(rows):
    rows = (row for row in rows if isinstance(row, (list, tuple)))
    return any(isinstance(value, str) for row in rows for value in row)


def _is_null(value):
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, (float, np.floating)) and value != value


def dtypes_of(X):
    """Return the names of the dtypes of a table of pandas, None of anything else."""
    dtypes = getattr(X, "dtypes", None)
    return [str(dtype) for dtype in dtypes] if hasattr(dtypes, "items") else None


def table_of(rows, levels, names, container="default", dtypes=None, index=None):
    """Return rows with names in place of codes.

    Parameters
    ----------
    rows : ndarray of shape (*, n_features)
        Numbers, and codes in columns of names.
    levels : dict of int to tuple
        Levels of the columns of names, by position.
    names : sequence
        Of the columns.
    container : {"default", "pandas", "polars"}
        "default" is an array, of objects if there are names. Only rows of two dimensions make
        another table.
    dtypes : list of str, optional
        Of the columns of the table that the model was fitted to, for pandas.
    index : Index, optional
        Of the rows, for pandas.
    """
    if container == "default" or rows.ndim != 2:
        if not levels:
            return rows
        found = rows.astype(object)
        for j, own in levels.items():
            found[..., j] = _names_of(rows[..., j], own)
        return found
    columns = {
        name: _names_of(rows[:, j], levels[j]) if j in levels else rows[:, j]
        for j, name in enumerate(names)
    }
    if container == "polars":
        import polars

        columns = {str(name): own for name, own in columns.items()}
        return polars.DataFrame(
            {k: v.tolist() if v.dtype == object else v for k, v in columns.items()}
        )
    import pandas

    for j, (name, dtype) in enumerate(zip(columns, dtypes or (), strict=False)):
        if dtype == "category" and j in levels:
            columns[name] = pandas.Categorical(columns[name], categories=list(levels[j]))
    return with_dtypes(
        pandas.DataFrame(columns, index=index), dict(zip(columns, dtypes or (), strict=False))
    )


def with_dtypes(table, dtypes):
    """Return a table of pandas with these dtypes, where they can hold the values.

    Parameters
    ----------
    table : DataFrame
        Rows.
    dtypes : dict of str to str
        Names of dtypes of some columns.
    """
    for name, dtype in dtypes.items():
        values = table.get(name)
        if values is None or dtype in ("category", "object") or values.isna().any():
            continue
        if dtype.lower().startswith(("int", "uint")):
            limits = np.iinfo(dtype.lower())
            if (values % 1 != 0).any() or not values.between(limits.min, limits.max).all():
                continue
        table[name] = values.astype(dtype)
    return table


def _names_of(codes, levels):
    found = np.empty(codes.shape, dtype=object)
    found[...] = np.nan
    for i, level in enumerate(levels):
        found[codes == i] = level
    return found
