"""Reads raw columns as typed ones: label, numbers, texts and time."""

# n rows of a table

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ctrdist.features.columns import ColumnConfig, FeatureColumns, bucket_name
from ctrdist.features.faults import python_value, wrong_value
from ctrdist.features.hashing import hash_values, one_array
from ctrdist.features.raw_values import (
    read_labels,
    read_lists,
    read_numbers,
    read_seconds,
    read_texts,
)
from ctrdist.features.transforms import bucket_texts


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
    weight: np.ndarray | None = None
    """(n,) float64, 0 or more."""
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    """Further label → (n,) float32, 0 or 1."""


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

    def checked(column: ColumnConfig) -> Any:
        values, bad = read_values(raw[column.name], column)
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise wrong_value(column, python_value(raw[column.name][row])).error(where(row))
        return values

    typed = TypedColumns(label=checked(columns.label))
    typed.labels = {column.name: checked(column) for column in columns.of_role("label")[1:]}
    for column in columns.of_role("timestamp"):
        typed.timestamp = checked(column)
    for column in columns.of_role("weight"):
        typed.weight = checked(column)
    measured = {column.name for column in columns.measured}
    for column in columns.of_role("numeric"):
        values = checked(column)
        if column.name in measured:
            typed.numbers[column.name] = values
        if columns.numeric_of(column) != "number" and column.buckets == "log_square":
            typed.texts[bucket_name(column.name)] = bucket_texts(values).fill_null("")
    for column in columns.of_role("categorical", "user"):
        texts = checked(column)
        if column.role == "user":
            typed.user = hash_values(texts).view(np.int64)
        typed.texts[column.name] = texts.fill_null("") if column.missing == "token" else texts
    for column in columns.of_role("multi_valued"):
        typed.texts[column.name] = short_lists(checked(column), column)
    return typed


def read_values(array: pa.Array, column: ColumnConfig) -> tuple[Any, np.ndarray]:
    """Reads the (n,) raw values of a column, null where missing, by its role.

    Returns:
        For a label (n,) float32 0 or 1; for numbers float64 with NaN where missing; for a timestamp
        int64 seconds; otherwise an Arrow array of texts, or of lists of texts. And (n,) bool: which
        values are not of the column's kind.
    """
    match column.role:
        case "label":
            return read_labels(array, column)
        case "timestamp":
            return read_seconds(array, column)
        case "numeric":
            return read_numbers(array, whole=column.type == "integer")
        case "weight":
            values, bad = read_numbers(array)
            return values, bad | ~(values >= 0)
        case "multi_valued":
            return read_lists(array, column)
    return read_texts(array)


def short_lists(column: pa.Array, config: ColumnConfig) -> pa.Array:
    """(n,) list of string: the values that are not empty, at most max_length per row."""
    parents = pc.list_parent_indices(column).to_numpy().astype(np.int64)
    values = one_array(pc.list_flatten(column))
    keep = pc.fill_null(pc.not_equal(values, ""), False).to_numpy(zero_copy_only=False)
    parents, values = parents[keep], values.filter(pa.array(keep))
    lengths = np.bincount(parents, minlength=len(column))
    if config.max_length is not None:
        starts = np.cumsum(lengths) - lengths
        short = np.arange(len(parents)) - starts[parents] < config.max_length
        values, lengths = values.filter(pa.array(short)), np.minimum(lengths, config.max_length)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values)
