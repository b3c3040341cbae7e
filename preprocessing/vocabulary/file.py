"""Vocabulary files of a data set: value string, id int32, count int64, in the order of ids."""

from contextlib import AbstractContextManager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ctrdist.data.counts import vocabulary_file
from ctrdist.native.strings import Strings
from ctrdist.storage import Store
from preprocessing.runtime.parquet_writer import ParquetWriter, new_parquet_file

GROUP_ROWS = 2**20
"""Rows of a row group."""
SCHEMA = pa.schema([("value", pa.string()), ("id", pa.int32()), ("count", pa.int64())])


def first_values(store: Store, field: str, n: int) -> list[str]:
    """The first n values of a field's vocabulary, or fewer, in the order of their ids."""
    with store.input(vocabulary_file(field)) as source:
        batch = next(pq.ParquetFile(source).iter_batches(max(1, n), columns=["value"]), None)
    found: list[str] = [] if batch is None else batch.column(0).slice(0, n).to_pylist()
    return found


def new_vocabulary(store: Store, name: str) -> AbstractContextManager[ParquetWriter]:
    """A new vocabulary file, which exists once the block ends without an error."""
    # No value occurs twice, so a dictionary would only take space.
    encodings = {"value": "PLAIN", "id": "DELTA_BINARY_PACKED", "count": "DELTA_BINARY_PACKED"}
    return new_parquet_file(
        store, name, SCHEMA, GROUP_ROWS, use_dictionary=False, column_encoding=encodings
    )


def vocabulary_rows(texts: Strings, first_id: int, counts: np.ndarray) -> pa.Table:
    """Values with consecutive ids, as rows of a vocabulary file."""
    ids = np.arange(first_id, first_id + len(texts), dtype=np.int32)
    columns = [texts.array().cast(pa.string()), pa.array(ids), pa.array(counts)]
    return pa.Table.from_arrays(columns, schema=SCHEMA)
