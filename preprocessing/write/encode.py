"""From coded rows to the columns of the data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ctrdist.schema import FIRST_VALUE_ID, CategoricalField, Schema
from preprocessing.config.settings import LABEL, USER, ColumnConfig, PreprocessConfig
from preprocessing.scan.scanned import Scanned
from preprocessing.statistics.numeric import quantile_ids, transformed
from preprocessing.statistics.profile import Ids


@dataclass(frozen=True)
class Encoding:
    """How fields become ids and numbers; what was learned from the training rows."""

    sizes: Mapping[str, int]
    """Field with a vocabulary → ids behind the two that are reserved."""
    transforms: Mapping[str, Mapping[str, Any]]
    """Numeric column → see numbers.NumberStatistics.learn."""


@dataclass(frozen=True)
class Encoded:
    """Rows as they are stored, and their ids by field, for the profile."""

    table: pa.Table
    ids: dict[str, Ids]
    missing: dict[str, np.ndarray]
    """Field → (n,) bool: which rows have no value; not of multi-valued fields."""


def is_quantile(column: ColumnConfig) -> bool:
    """Whether a categorical field is the part of its column's values that a number falls into."""
    return column.role == "numeric" and column.buckets == "quantile"


def has_vocabulary(column: ColumnConfig) -> bool:
    """Whether a field's ids come from a vocabulary of its values."""
    return not is_quantile(column) and column.encoding == "vocabulary"


def schema_of(config: PreprocessConfig, encoding: Encoding) -> Schema:
    """The schema of the data set."""
    timestamp = config.of_role("timestamp")
    fields = [
        CategoricalField(
            name=c.name,
            vocabulary_size=FIRST_VALUE_ID + _ids_of(c, encoding),
            multi_valued=c.role == "multi_valued",
        )
        for c in config.categorical
    ]
    fields += [
        CategoricalField(name=name, vocabulary_size=FIRST_VALUE_ID + encoding.sizes[name])
        for name in config.derived
    ]
    fields += [
        CategoricalField(name=c.name, vocabulary_size=FIRST_VALUE_ID + c.num_buckets)
        for c in config.crosses
    ]
    return Schema(
        name=config.name or "unnamed",
        label=LABEL,
        numeric=tuple(c.name for c in config.numeric),
        categorical=tuple(fields),
        user=USER if config.of_role("user") else None,
        timestamp=timestamp[0].name if timestamp else None,
    )


def arrow_schema(schema: Schema) -> pa.Schema:
    """Columns of the Parquet files: label, numeric, categorical, user, timestamp; none nullable."""
    ids = pa.list_(pa.field("element", pa.int32(), nullable=False))
    columns: list[tuple[str, pa.DataType]] = [(schema.label, pa.float32())]
    columns += [(name, pa.float32()) for name in schema.numeric]
    columns += [(f.name, ids if f.multi_valued else pa.int32()) for f in schema.categorical]
    columns += [(name, pa.int64()) for name in (schema.user, schema.timestamp) if name]
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns])


def encode(
    rows: Scanned,
    tables: Mapping[str, np.ndarray],
    config: PreprocessConfig,
    encoding: Encoding,
    target: pa.Schema,
) -> Encoded:
    """A block as it is stored; the same rows in the same order.

    Args:
        rows: of one shard.
        tables: field → (codes + 1,) int32 id of each of the shard's codes, the last for none.
        config: the data set.
        encoding: from its training rows.
        target: from :func:`arrow_schema`.
    """
    columns: list[pa.Array] = [pa.array(rows.label)]
    for column in config.numeric:
        learned = encoding.transforms.get(column.name, {})
        columns.append(pa.array(transformed(rows.numbers[column.name], column, learned)))
    ids: dict[str, Ids] = {}
    missing: dict[str, np.ndarray] = {}
    for column in config.categorical:
        name = column.name
        if is_quantile(column):
            values = rows.numbers[name.removesuffix("_bucket")]
            ids[name] = quantile_ids(values, encoding.transforms[name.removesuffix("_bucket")])
            missing[name] = np.isnan(values)
        elif name in rows.lists:
            ends, codes = rows.lists[name]
            flat = tables[name][codes[ends[0] : ends[-1]]]
            ids[name] = (ends - ends[0], flat)
        else:
            ids[name] = tables[name][rows.codes[name]]
            missing[name] = rows.codes[name] < 0
    for name in config.derived:
        ids[name] = tables[name][rows.codes[name]]
    for cross in config.crosses:
        ids[cross.name] = rows.crosses[cross.name]
    for name, found in ids.items():
        if isinstance(found, tuple):
            kind = target.field(name).type
            columns.append(pa.ListArray.from_arrays(pa.array(found[0]), pa.array(found[1]), kind))
        else:
            columns.append(pa.array(found))
    if rows.user is not None:
        columns.append(pa.array(rows.user))
    if rows.timestamp is not None:
        columns.append(pa.array(rows.timestamp))
    return Encoded(pa.Table.from_arrays(columns, schema=target), ids, missing)


def _ids_of(column: ColumnConfig, encoding: Encoding) -> int:
    if is_quantile(column):
        learned = encoding.transforms[column.name.removesuffix("_bucket")]
        return len(learned["edges"]) + 2
    if column.encoding == "hash":
        assert column.num_buckets is not None
        return column.num_buckets
    return encoding.sizes[column.name] + (column.num_buckets or 0)
