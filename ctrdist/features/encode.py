"""Encodes rows with local ids as the columns of a data set."""

# n rows

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from ctrdist.features.columns import bucket_name, is_quantile
from ctrdist.features.fitted import FittedFeatures
from ctrdist.features.transforms import quantile_ids, transformed
from ctrdist.schema import Schema

Ids = np.ndarray | tuple[np.ndarray, np.ndarray]
"""Ids of one field: (n,) int32; where multi-valued, offsets (n + 1,) and flat ids, int32."""


@dataclass
class LocalRows:
    """Columns of n rows. A local id is the index of a text in a dictionary that the rows share."""

    label: np.ndarray
    """(n,) float32, 0 or 1."""
    numbers: dict[str, np.ndarray] = field(default_factory=dict)
    """Column of FeatureColumns.measured → (n,) float64 as given, NaN where missing."""
    local_ids: dict[str, np.ndarray] = field(default_factory=dict)
    """Categorical field → (n,) int32, -1 where it has no value."""
    lists: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    """Multi-valued field → (n + 1,) int32 offsets of the rows, and the local ids of all rows,
    int32."""
    timestamp: np.ndarray | None = None
    """(n,) int64 seconds since 1970."""
    user: np.ndarray | None = None
    """(n,) int64 hash of the raw user."""
    row_hash: np.ndarray | None = None
    """(n,) uint64 hash of the key of a split by hash."""
    crosses: dict[str, np.ndarray] = field(default_factory=dict)
    """Cross → (n,) int32 ids."""
    weight: np.ndarray | None = None
    """(n,) float64 weights, 0 or more."""
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    """Further label → (n,) float32, 0 or 1."""

    def filter(self, keep: np.ndarray) -> "LocalRows":
        """The rows where `keep`, (n,) bool, is true."""

        def of(array: np.ndarray | None) -> np.ndarray | None:
            return None if array is None else array[keep]

        def all_of(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {name: array[keep] for name, array in arrays.items()}

        lists = {}
        for name, (ends, ids) in self.lists.items():
            lengths = np.diff(ends)
            offsets = np.concatenate([[0], np.cumsum(lengths[keep])]).astype(np.int32)
            lists[name] = offsets, ids[ends[0] : ends[-1]][np.repeat(keep, lengths)]
        return LocalRows(
            label=self.label[keep],
            numbers=all_of(self.numbers),
            local_ids=all_of(self.local_ids),
            lists=lists,
            timestamp=of(self.timestamp),
            user=of(self.user),
            row_hash=of(self.row_hash),
            crosses=all_of(self.crosses),
            weight=of(self.weight),
            labels=all_of(self.labels),
        )


@dataclass(frozen=True)
class Encoded:
    """Rows as they are stored, with what the report counts of them."""

    table: pa.Table
    ids: dict[str, Ids]
    """Field → its ids."""
    missing: dict[str, np.ndarray]
    """Field → (n,) bool: the rows without a value. Multi-valued and derived fields have none."""


def arrow_schema(schema: Schema) -> pa.Schema:
    """Columns of the Parquet files, none nullable.

    They are label, numeric, categorical, user, timestamp, weight, and further labels.
    """
    ids = pa.list_(pa.field("element", pa.int32(), nullable=False))
    columns: list[tuple[str, pa.DataType]] = [(schema.label, pa.float32())]
    columns += [(name, pa.float32()) for name in schema.numeric]
    columns += [(f.name, ids if f.multi_valued else pa.int32()) for f in schema.categorical]
    columns += [(name, pa.int64()) for name in (schema.user, schema.timestamp) if name]
    columns += [(name, pa.float32()) for name in (schema.weight, *schema.labels[1:]) if name]
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns])


def encode(
    rows: LocalRows, tables: Mapping[str, np.ndarray], fitted: FittedFeatures, target: pa.Schema
) -> Encoded:
    """Encodes rows as they are stored, in the same order.

    Args:
        rows: with local ids.
        tables: field → (local ids + 1,) int32: the id of each local id; the last is that of none.
        fitted: the columns, with their fitted parameters.
        target: from :func:`arrow_schema`.
    """
    columns: list[pa.Array] = [pa.array(rows.label)]
    for column in fitted.numeric:
        parameters = fitted.transforms.get(column.name, {})
        columns.append(pa.array(transformed(rows.numbers[column.name], column, parameters)))
    ids: dict[str, Ids] = {}
    missing: dict[str, np.ndarray] = {}
    for column in fitted.of_role("numeric"):
        if fitted.numeric_of(column) != "number" and is_quantile(column):
            name, values = bucket_name(column.name), rows.numbers[column.name]
            ids[name] = quantile_ids(values, fitted.transforms[column.name])
            missing[name] = np.isnan(values)
    for name, (ends, local) in rows.lists.items():
        ids[name] = (ends - ends[0], tables[name][local[ends[0] : ends[-1]]])
    for name, local in rows.local_ids.items():
        ids[name] = tables[name][local]
        if name not in fitted.derived:
            missing[name] = local < 0
    ids.update(rows.crosses)
    first = 1 + len(fitted.numeric)
    ids = {name: ids[name] for name in target.names[first : first + len(ids)]}
    for name, found in ids.items():
        if isinstance(found, tuple):
            kind = target.field(name).type
            columns.append(pa.ListArray.from_arrays(pa.array(found[0]), pa.array(found[1]), kind))
        else:
            columns.append(pa.array(found))
    columns += [pa.array(values) for values in (rows.user, rows.timestamp) if values is not None]
    if rows.weight is not None:
        columns.append(pa.array(rows.weight.astype(np.float32)))
    columns += [pa.array(rows.labels[column.name]) for column in fitted.of_role("label")[1:]]
    return Encoded(pa.Table.from_arrays(columns, schema=target), ids, missing)
