"""Reads raw columns as typed ones: label, numbers, texts and time."""

# n rows of a table

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ctrdist.errors import DataError
from ctrdist.features.columns import ColumnConfig, FeatureColumns, bucket_name
from ctrdist.features.hashing import hash_values, one_array
from ctrdist.features.transforms import bucket_texts

UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000}
"""Unit of a timestamp → how many make a second."""
_SHOWN = 200
_FAILURES = (pa.ArrowInvalid, pa.ArrowNotImplementedError)


@dataclass(frozen=True)
class Fault:
    """The reason why a line or a value is refused."""

    reason: str
    """For example: 39 columns, expected 40 (label, …), separated by tab."""
    remedy: str
    column: str | None = None
    """The column of the value; None for a whole line."""

    def error(self, where: str) -> DataError:
        """The error that ends a run."""
        return DataError(f"{where}: {self.reason}. {self.remedy}")


@dataclass
class TypedColumns:
    """The typed columns of n rows."""

    label: np.ndarray
    """(n,) float32, 0 or 1."""
    numbers: dict[str, np.ndarray] = field(default_factory=dict)
    """Column of :attr:`FeatureColumns.measured` → (n,) float64, NaN where missing."""
    texts: dict[str, pa.Array] = field(default_factory=dict)
    """Field of :attr:`FeatureColumns.counted` → (n,) string, null where it is unknown; (n,) list of
    string where multi-valued."""
    timestamp: np.ndarray | None = None
    """(n,) int64 seconds since 1970."""
    user: np.ndarray | None = None
    """(n,) int64 hash of the raw user."""


def read_typed_columns(
    table: pa.Table, columns: FeatureColumns, where: Callable[[int], str]
) -> TypedColumns:
    """Reads raw columns by their roles.

    Args:
        table: the raw columns, null where a value is missing.
        columns: their settings.
        where: names the place of a row in the log, for messages.

    Raises:
        DataError: a value is not of its column's kind; the message names the first such row of the
            column.
    """
    raw = {name: one_array(table.column(name)) for name in table.column_names}

    def checked(column: ColumnConfig) -> np.ndarray:
        values, bad = typed_values(raw[column.name], column)
        _refuse(bad, raw[column.name], column, where)
        return values

    def texts_of(column: ColumnConfig) -> pa.Array:
        texts, bad = cast_where_possible(raw[column.name], pa.string())
        _refuse(bad, raw[column.name], column, where)
        return texts

    typed = TypedColumns(label=checked(columns.label))
    for column in columns.of_role("timestamp"):
        typed.timestamp = checked(column)
    measured = {column.name for column in columns.measured}
    for column in columns.of_role("numeric"):
        values = checked(column)
        if column.name in measured:
            typed.numbers[column.name] = values
        if columns.numeric_of(column) != "number" and column.buckets == "log_square":
            typed.texts[bucket_name(column.name)] = bucket_texts(values).fill_null("")
    for column in columns.of_role("categorical", "user"):
        texts = texts_of(column)
        if column.role == "user":
            typed.user = hash_values(texts).view(np.int64)
        typed.texts[column.name] = texts.fill_null("") if column.missing == "token" else texts
    for column in columns.of_role("multi_valued"):
        array = raw[column.name]
        if not pa.types.is_list(array.type) and not pa.types.is_large_list(array.type):
            array = pc.split_pattern(texts_of(column), pattern=column.separator)
        typed.texts[column.name] = _lists(array, column)
    return typed


def typed_values(array: pa.Array, column: ColumnConfig) -> tuple[np.ndarray, np.ndarray]:
    """Reads the (n,) raw values, null where missing, of a label, a numeric column or a timestamp.

    Returns:
        (n,) float32 0 or 1, float64 with NaN where missing, or int64 seconds; and (n,) bool: which
        values are not of the column's kind.
    """
    if column.role == "timestamp":
        per_second = UNITS[column.unit]
        if pa.types.is_timestamp(array.type):
            array, per_second = array.cast(pa.timestamp("s"), safe=False), 1
        whole, bad = cast_where_possible(array, pa.int64())
        bad = bad | whole.is_null().to_numpy(zero_copy_only=False)
        return whole.fill_null(0).to_numpy() // per_second, bad
    integer = column.role == "numeric" and column.type == "integer"
    if integer and not pa.types.is_floating(array.type):
        whole, bad = cast_where_possible(array, pa.int64())
        return whole.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), bad
    numbers, bad = cast_where_possible(array, pa.float64())
    values = numbers.to_numpy(zero_copy_only=False)
    missing = np.isnan(values)
    if column.role == "label":
        if column.threshold is not None:
            return (values >= column.threshold).astype(np.float32), bad | missing
        return values.astype(np.float32), bad | ((values != 0) & (values != 1))
    wrong = values != np.trunc(values) if column.type == "integer" else np.isinf(values)
    return values, bad | (wrong & ~missing)


def cast_where_possible(column: pa.Array, target: pa.DataType) -> tuple[pa.Array, np.ndarray]:
    """Casts a (n,) column value by value: Arrow's cast fails as a whole, and names no row.

    Only distinct values are tried, by halves: a few thousand bad ones among a million cost little.

    Returns:
        The column, null where the cast fails, and (n,) bool: where it fails.
    """
    try:
        return column.cast(target), np.zeros(len(column), bool)
    except _FAILURES:
        pass
    try:
        encoded = column.dictionary_encode()
    except _FAILURES:  # a nested type: no value can be cast
        return pa.nulls(len(column), target), column.is_valid().to_numpy(zero_copy_only=False)
    bad = np.zeros(len(encoded.dictionary), bool)
    parts = [(0, len(bad))]
    while parts:
        begin, end = parts.pop()
        try:
            encoded.dictionary.slice(begin, end - begin).cast(target)
        except _FAILURES:
            if end - begin == 1:
                bad[begin] = True
            else:
                middle = (begin + end) // 2
                parts += [(begin, middle), (middle, end)]
    good = pc.if_else(pa.array(bad), pa.scalar(None, column.type), encoded.dictionary)
    indices = encoded.indices.fill_null(-1).to_numpy()
    return good.cast(target).take(encoded.indices), (indices >= 0) & bad[indices]


def wrong_value(column: ColumnConfig, value: object) -> Fault:
    """The fault of a value that is not of its column's kind; None is a missing one."""
    wants = {"label": "0 or 1", "timestamp": "an integer (seconds)"}.get(column.role, "one value")
    if column.role == "numeric" or (column.role == "label" and column.threshold is not None):
        wants = "an integer" if column.type == "integer" else "a finite number"
    hint = "correct the column"
    if column.role == "label" and column.threshold is None:
        hint = "set `threshold` for the label"
    shown = "nothing" if value is None else f'"{str(value)[:_SHOWN]}"'
    reason = f"column {column.name} wants {wants}, got {shown}"
    return Fault(reason, f"Fix the row, or {hint} in the data-set YAML.", column.name)


def _refuse(
    bad: np.ndarray, array: pa.Array, column: ColumnConfig, where: Callable[[int], str]
) -> None:
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise wrong_value(column, array[row].as_py()).error(where(row))


def _lists(column: pa.Array, config: ColumnConfig) -> pa.Array:
    """Lists of the values that are not empty, at most max_length per row."""
    parents = pc.list_parent_indices(column).to_numpy().astype(np.int64)
    values = one_array(pc.list_flatten(column)).cast(pa.string())
    keep = pc.fill_null(pc.not_equal(values, ""), False).to_numpy(zero_copy_only=False)
    parents, values = parents[keep], values.filter(pa.array(keep))
    lengths = np.bincount(parents, minlength=len(column))
    if config.max_length is not None:
        starts = np.cumsum(lengths) - lengths
        short = np.arange(len(parents)) - starts[parents] < config.max_length
        values, lengths = values.filter(pa.array(short)), np.minimum(lengths, config.max_length)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values)
