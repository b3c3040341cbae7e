"""From raw columns to typed ones: label, numbers, tokens. Counting and encoding share it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ctrdist.errors import DataError
from preprocessing.config.settings import ColumnConfig, PreprocessConfig
from preprocessing.scan.scanned import measured
from preprocessing.sources.reader import Block

USER_KEY = "ctrdist users 64"
"""Of the users' hashes."""
UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000}
"""How many of a timestamp's unit make a second."""


@dataclass
class Fields:
    """The typed columns of a block's n rows."""

    label: np.ndarray
    """(n,) float32, 0 or 1."""
    numbers: dict[str, np.ndarray] = field(default_factory=dict)
    """Numeric column → (n,) float64, NaN where missing."""
    tokens: dict[str, pa.Array] = field(default_factory=dict)
    """Categorical field → (n,) string, null where missing; (n,) list of string where
    multi-valued."""
    timestamp: np.ndarray | None = None
    """(n,) int64."""


def read_fields(block: Block, config: PreprocessConfig) -> Fields:
    """Reads the columns of a block as what they are; numbers as given.

    Raises:
        DataError: a value is not of its column's kind; the message names the first such row of the
            column.
    """
    columns = {name: _one(block.table.column(name)) for name in block.table.column_names}
    fields = Fields(label=_label(columns[config.label.name], config.label, block))
    for column in config.of_role("timestamp"):
        fields.timestamp = _seconds(columns[column.name], column, block)
    for column in config.of_role("numeric"):
        values = _numbers(columns[column.name], column, block)
        if column in measured(config):
            fields.numbers[column.name] = values
        if config.numeric_of(column) != "number" and column.buckets == "log_square":
            fields.tokens[f"{column.name}_bucket"] = bucket(values)
    for column in config.of_role("categorical", "user"):
        fields.tokens[column.name] = _text(columns[column.name], column, block)
    for column in config.of_role("multi_valued"):
        fields.tokens[column.name] = _lists(columns[column.name], column, block)
    return fields


def bucket(values: np.ndarray) -> pa.Array:
    """Text of each (n,) number's bucket, see :func:`bucket_number`; null for NaN."""
    return pa.array(bucket_number(values), mask=np.isnan(values)).cast(pa.string())


def bucket_number(values: np.ndarray) -> np.ndarray:
    """(n,) int64: floor(ln(x)²) for x > 2, else x without its fraction; 0 for NaN."""
    values = np.where(np.isnan(values), 0.0, values)
    known = _known_buckets()
    places = np.clip(values, 0, len(known) - 1).astype(np.int64)
    out = known[places]
    others = np.flatnonzero(places != values)  # most numbers of logs are small and whole
    out[others] = _bucket_formula(values[others])
    return out


@cache
def _known_buckets() -> np.ndarray:
    """The buckets of 0, 1, 2, …: to look them up takes a quarter of the formula's time."""
    return _bucket_formula(np.arange(2.0**14))


def _bucket_formula(values: np.ndarray) -> np.ndarray:
    out, large = values.copy(), values > 2
    out[large] = np.floor(np.log(values[large]) ** 2)
    return out.astype(np.int64)


def hashes(column: pa.ChunkedArray | pa.Array, key: str = USER_KEY) -> np.ndarray:
    """(n,) uint64: a stable hash (SipHash-2-4) of each text; null counts as the empty text.

    Args:
        column: any type that has a text form.
        key: 16 characters.
    """
    encoded = _one(column).cast(pa.string()).fill_null("").dictionary_encode()
    values = encoded.dictionary.to_numpy(zero_copy_only=False).astype(object)
    return pd.util.hash_array(values, hash_key=key, categorize=False)[encoded.indices.to_numpy()]


def _one(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    if isinstance(column, pa.Array):
        return column
    return (
        column.chunk(0)
        if column.num_chunks == 1
        else pa.concat_arrays(column.chunks or [pa.array([], column.type)])
    )


def _label(column: pa.Array, config: ColumnConfig, block: Block) -> np.ndarray:
    values = _floats(column, "a number", config, block)
    if config.threshold is not None:
        bad, wants = np.isnan(values), "a number"
        values = (values >= config.threshold).astype(np.float64)
    else:
        bad, wants = (values != 0) & (values != 1), "0 or 1"
    if bad.any():
        hint = (
            ""
            if config.threshold is not None
            else ", or set `threshold` for the label in the data-set YAML"
        )
        raise _wrong(config, wants, column, int(np.flatnonzero(bad)[0]), block, hint)
    return values.astype(np.float32)


def _numbers(column: pa.Array, config: ColumnConfig, block: Block) -> np.ndarray:
    if config.type == "integer" and not pa.types.is_floating(column.type):
        whole = _cast(column, pa.int64(), "an integer", config, block)
        return whole.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    values = _floats(column, "a number", config, block)
    bad = values != np.trunc(values) if config.type == "integer" else np.isinf(values)
    bad &= ~np.isnan(values)
    if bad.any():
        wants = "an integer" if config.type == "integer" else "a finite number"
        raise _wrong(config, wants, column, int(np.flatnonzero(bad)[0]), block)
    return values


def _floats(column: pa.Array, wants: str, config: ColumnConfig, block: Block) -> np.ndarray:
    return _cast(column, pa.float64(), wants, config, block).to_numpy(zero_copy_only=False)


def _seconds(column: pa.Array, config: ColumnConfig, block: Block) -> np.ndarray:
    per_second = UNITS[config.unit]
    if pa.types.is_timestamp(column.type):
        column, per_second = column.cast(pa.timestamp("s"), safe=False), 1
    values = _cast(column, pa.int64(), "an integer (seconds)", config, block)
    if values.null_count:
        row = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
        raise _wrong(config, "an integer (seconds)", column, row, block)
    return values.to_numpy() // per_second


def _cast(
    column: pa.Array, target: pa.DataType, wants: str, config: ColumnConfig, block: Block
) -> pa.Array:
    try:
        return column.cast(target)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        for row, value in enumerate(column):  # Arrow tells the value at best, not the row
            try:
                value.cast(target)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                raise _wrong(config, wants, column, row, block) from error
        raise


def _text(column: pa.Array, config: ColumnConfig, block: Block) -> pa.Array:
    return _cast(column, pa.string(), "one value", config, block)


def _lists(column: pa.Array, config: ColumnConfig, block: Block) -> pa.Array:
    """Lists of the values that are not empty, at most max_length."""
    if not pa.types.is_list(column.type) and not pa.types.is_large_list(column.type):
        column = pc.split_pattern(_text(column, config, block), pattern=config.separator)
    parents = pc.list_parent_indices(column).to_numpy().astype(np.int64)
    values = _one(pc.list_flatten(column)).cast(pa.string())
    keep = pc.fill_null(pc.not_equal(values, ""), False).to_numpy(zero_copy_only=False)
    parents, values = parents[keep], values.filter(pa.array(keep))
    lengths = np.bincount(parents, minlength=len(column))
    if config.max_length is not None:
        starts = np.cumsum(lengths) - lengths
        short = np.arange(len(parents)) - starts[parents] < config.max_length
        values, lengths = values.filter(pa.array(short)), np.minimum(lengths, config.max_length)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def _wrong(
    config: ColumnConfig, wants: str, column: pa.Array, row: int, block: Block, hint: str = ""
) -> DataError:
    value = column[row].as_py()
    given = "nothing" if value is None else f'"{str(value)[:200]}"'
    return DataError(
        f"{block.where(row)}: column {config.name} wants {wants}, got {given}. "
        f"Fix the row{hint or ', or correct the column in the data-set YAML'}."
    )
