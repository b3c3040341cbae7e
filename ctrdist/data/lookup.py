"""Finds rows of a split by their index, to show them to a person; training does not use it."""

# N rows

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ctrdist.data.manifest import Dataset
from ctrdist.data.order import row_groups
from ctrdist.storage import Store

ROW_COLUMN = "__row"


def read_rows(dataset: Dataset, split: str, row_N: np.ndarray) -> pa.Table:
    """All columns of some rows, by their (N,) indices in the split and in their order.

    The indices are a first column, __row. Only the row groups that hold the rows are read.
    """
    store = Store(dataset.path)
    files = dataset.split(split).files
    tables, found = [], []
    for group in row_groups(dataset.split(split)):
        inside = np.flatnonzero((row_N >= group.first_row) & (row_N < group.first_row + group.rows))
        if len(inside):
            with store.input(files[group.file].path) as source:
                table = pq.ParquetFile(source).read_row_group(group.index)
            tables.append(table.take(pa.array(row_N[inside] - group.first_row)))
            found.append(inside)
    joined = pa.concat_tables(tables).take(pa.array(np.argsort(np.concatenate(found))))
    return joined.add_column(0, ROW_COLUMN, pa.array(row_N))


def origins(dataset: Dataset, split: str, row_N: np.ndarray) -> dict[str, list[int]]:
    """Returns file of the data set → positions in this file of the rows that it holds."""
    result: dict[str, list[int]] = {}
    first_row = 0
    for file in dataset.split(split).files:
        inside = row_N[(row_N >= first_row) & (row_N < first_row + file.rows)] - first_row
        if len(inside):
            result[file.path] = inside.tolist()
        first_row += file.rows
    return result
