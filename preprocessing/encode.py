"""From typed fields to the columns of the data set."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ctrdist.schema import FIRST_VALUE_ID, UNKNOWN_ID, CategoricalField, Schema
from preprocessing.config import LABEL, USER, ColumnConfig, PreprocessConfig
from preprocessing.fields import Fields, hashes
from preprocessing.statistics import Encoding


def schema_of(config: PreprocessConfig, encoding: Encoding) -> Schema:
    """The schema of the data set."""
    timestamp = config.of_role("timestamp")
    return Schema(
        name=config.name or "unnamed",
        label=LABEL,
        numeric=tuple(c.name for c in config.numeric),
        categorical=tuple(
            CategoricalField(
                name=c.name,
                vocabulary_size=FIRST_VALUE_ID + encoding.vocabularies[c.name].num_rows,
                multi_valued=c.role == "multi_valued",
            )
            for c in config.categorical
        ),
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
    fields: Fields, config: PreprocessConfig, encoding: Encoding, target: pa.Schema
) -> pa.Table:
    """A block as it is stored; the same rows in the same order.

    Args:
        fields: the typed block.
        config: the data set.
        encoding: from its training rows.
        target: from :func:`arrow_schema`.
    """
    columns: list[pa.Array] = [pa.array(fields.label)]
    for column in config.numeric:
        columns.append(pa.array(_standardised(fields.numbers[column.name], column, encoding)))
    for column in config.categorical:
        tokens = fields.tokens[column.name]
        values = encoding.vocabularies[column.name].column("value")
        if column.role == "multi_valued":
            flat = _ids(tokens.values, values)
            columns.append(
                pa.ListArray.from_arrays(tokens.offsets, flat, type=target.field(column.name).type)
            )
        else:
            columns.append(
                _ids(tokens.fill_null("") if column.missing == "token" else tokens, values)
            )
    for column in config.of_role("user"):
        columns.append(pa.array(hashes(fields.tokens[column.name]).view(np.int64)))
    if fields.timestamp is not None:
        columns.append(pa.array(fields.timestamp))
    return pa.Table.from_arrays(columns, schema=target)


def _standardised(values: np.ndarray, column: ColumnConfig, encoding: Encoding) -> np.ndarray:
    if column.transform != "raw":
        moments = encoding.moments[column.name]
        values = (values - moments.mean) / moments.deviation
    return np.nan_to_num(values, nan=0.0).astype(np.float32)


def _ids(tokens: pa.Array, values: pa.ChunkedArray) -> pa.Array:
    """Ids of tokens: place in the vocabulary plus 2, or unknown. Seeks each distinct token once."""
    encoded = tokens.dictionary_encode()
    found = pc.index_in(encoded.dictionary, value_set=values, skip_nulls=True).to_numpy(
        zero_copy_only=False
    )
    ids = np.where(np.isnan(found), UNKNOWN_ID, found + FIRST_VALUE_ID).astype(np.int32)
    table = np.append(ids, np.int32(UNKNOWN_ID))  # the last is that of null
    indices = encoded.indices.fill_null(len(ids)).to_numpy()
    return pa.array(table[indices])
