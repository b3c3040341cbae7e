"""Whether two data sets hold the same rows: column by column, in order or in any order."""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ctrdist.data.manifest import SPLITS

_ROWS = 262144
_TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}
"""Tolerance of standardised float32 numbers, whose float64 sums had another order."""


def differences(ours: Path, theirs: Path, *, ordered: bool = True) -> list[str]:
    """Returns the differences, a line each; nothing where all rows are the same.

    Args:
        ours: a data set's directory.
        theirs: a directory with train, valid and test, each a Parquet file of that name or a
            directory of them whose names are in order; the columns are those of ours.
        ordered: False: rows may be in another order within their split. Then ids and label are
            compared by the sum of a hash of each row, numbers by their sums.
    """
    return [
        line
        for split in SPLITS
        for line in (_in_order if ordered else _in_any_order)(ours, theirs, split)
    ]


def _in_order(ours: Path, theirs: Path, split: str) -> list[str]:
    first = 0
    for mine, other in zip_longest(_blocks(ours, split), _blocks(theirs, split)):
        counts = [0 if table is None else table.num_rows for table in (mine, other)]
        if counts[0] != counts[1]:
            return [f"{split}: {counts[0]} and {counts[1]} rows from row {first} on"]
        if set(mine.column_names) != set(other.column_names):
            return [f"{split}: columns {mine.column_names} and {other.column_names}"]
        for name in mine.column_names:
            a, b = (table.column(name).to_numpy() for table in (mine, other))
            equal = np.isclose(a, b, **_TOLERANCE) if a.dtype.kind == "f" else a == b
            if not equal.all():
                row = int(np.flatnonzero(~equal)[0])
                return [f"{split} row {first + row}: {name} is {a[row]} and {b[row]}"]
        first += mine.num_rows
    return []


def _in_any_order(ours: Path, theirs: Path, split: str) -> list[str]:
    mine, other = (_digest(folder, split) for folder in (ours, theirs))
    if mine[0] != other[0]:
        return [f"{split}: (rows, hash of labels and ids) is {mine[0]} and {other[0]}"]
    return [
        f"{split}: the sum of {name} is {value} and {other[1][name]}"
        for name, value in mine[1].items()
        if not np.isclose(value, other[1][name], rtol=1e-5, atol=1e-6 * mine[0][0])
    ]


def _digest(folder: Path, split: str) -> tuple[tuple[int, int], dict[str, float]]:
    """((rows, sum of the rows' hashes), column → sum of its numbers)."""
    rows, total, sums = 0, 0, dict[str, float]()
    for table in _blocks(folder, split):
        state = np.zeros(table.num_rows, np.uint64)
        for name in sorted(table.column_names):
            values = table.column(name).to_numpy()
            if values.dtype.kind == "f" and name != "label":
                sums[name] = sums.get(name, 0.0) + float(values.sum(dtype=np.float64))
            else:
                state = (state + values.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
                state ^= state >> np.uint64(29)
        rows, total = rows + table.num_rows, (total + int(state.sum())) % 2**64
    return (rows, total), sums


def _blocks(folder: Path, split: str) -> Iterator[pa.Table]:
    """Tables of _ROWS rows, the last shorter."""
    single = folder / f"{split}.parquet"
    files = [single] if single.exists() else sorted((folder / split).glob("*.parquet"))
    waiting: list[pa.Table] = []
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(_ROWS):
            waiting.append(pa.table(batch))
            while sum(table.num_rows for table in waiting) >= _ROWS:
                rows = pa.concat_tables(waiting)
                yield rows.slice(0, _ROWS)
                waiting = [rows.slice(_ROWS)]
    if sum(table.num_rows for table in waiting):
        yield pa.concat_tables(waiting)
