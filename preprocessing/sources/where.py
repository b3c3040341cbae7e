"""Finds the rows that meet the conditions of `where`."""

# n rows of a table

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ctrdist.errors import DataError
from ctrdist.features.columns import ColumnConfig
from ctrdist.features.faults import python_value
from ctrdist.features.hashing import one_array
from ctrdist.features.raw_values import read_numbers, read_seconds, read_texts
from preprocessing.config.rows import Condition


def rows_that_meet(
    table: pa.Table,
    conditions: Sequence[Condition],
    columns: Sequence[ColumnConfig],
    where: Callable[[int], str],
) -> np.ndarray:
    """(n,) bool: the rows of a table that meet all conditions.

    Args:
        table: raw columns, null where a value is missing.
        conditions: on its columns.
        columns: settings of the columns.
        where: names the place of a row in the log, for messages.

    Raises:
        DataError: a value that is compared with a number is none.
    """
    by_name = {column.name: column for column in columns}
    keep = np.ones(table.num_rows, bool)
    for condition in conditions:
        array = one_array(table.column(condition.column))
        if condition.values is not None:
            keep &= _is_one_of(array, condition.values) == condition.keep
            continue
        numbers = _numbers(array, by_name[condition.column], where)
        if condition.least is not None:
            keep &= numbers >= condition.least
        if condition.most is not None:
            keep &= numbers <= condition.most
    return keep


def _is_one_of(array: pa.Array, values: Sequence[Any]) -> np.ndarray:
    """(n,) bool: where a value is one of these; None among them stands for a missing one."""
    texts, _ = read_texts(array)
    wanted = pa.array([_text(value) for value in values if value is not None], pa.string())
    found: np.ndarray = pc.is_in(texts, value_set=wanted).to_numpy(zero_copy_only=False)
    return found | texts.is_null().to_numpy(zero_copy_only=False) if None in values else found


def _text(value: Any) -> str:
    """A value of the YAML as a log has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)


def _numbers(array: pa.Array, column: ColumnConfig, where: Callable[[int], str]) -> np.ndarray:
    """(n,) numbers of a column, NaN where missing; those of a timestamp are seconds."""
    known = array.is_valid().to_numpy(zero_copy_only=False)
    time = column.role == "timestamp"
    found, bad = read_seconds(array, column) if time else read_numbers(array)
    values, bad = np.where(known, found, np.nan), bad & known
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"{where(row)}: `where` compares column {column.name} with a number, and it is "
            f'"{python_value(array[row])}". Fix the row, or use `in` or `not_in`.'
        )
    return values
