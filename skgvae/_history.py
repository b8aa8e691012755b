"""How is the history of a training saved? As columns, in a third of the space of records."""

from itertools import groupby

import numpy as np


def to_columns(records):
    """Return a list of tables, one for each run of records that have the same entries."""
    return [
        {name: _column([record[name] for record in run]) for name in names}
        for names, run in ((names, list(run)) for names, run in groupby(records, key=tuple))
    ]


def to_records(tables):
    """Return the records of such tables."""
    records = []
    for table in tables:
        columns = [c.tolist() if isinstance(c, np.ndarray) else c for c in table.values()]
        records += [dict(zip(table, row, strict=True)) for row in zip(*columns, strict=True)]
    return records


def _column(values):
    if len({type(value) for value in values}) > 1 or not isinstance(values[0], (bool, int, float)):
        return values
    column = np.array(values)
    if column.dtype == np.float64 and np.array_equal(column, column.astype("f4"), equal_nan=True):
        return column.astype(np.float32)  # as the net records them
    return column if column.dtype != object else values
