"""Vocabulary files of a data set: value string, id int32, count int64, in the order of ids."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ctrdist.native.strings import Strings
from ctrdist.schema import file_stem
from ctrdist.storage import HashingFile, Store

VOCABULARY = "vocabulary"
"""Directory of the vocabularies in a data set."""
GROUP_ROWS = 2**20
"""Rows of a row group."""


def vocabulary_file(field: str) -> str:
    """Name of a field's vocabulary in a data set."""
    return f"{VOCABULARY}/{file_stem(field)}.parquet"


def first_values(store: Store, field: str, n: int) -> list[str]:
    """The first n values of a field's vocabulary, or fewer, in the order of their ids."""
    with store.input(vocabulary_file(field)) as source:
        batch = next(pq.ParquetFile(source).iter_batches(max(1, n), columns=["value"]), None)
    found: list[str] = [] if batch is None else batch.column(0).slice(0, n).to_pylist()
    return found


@contextmanager
def new_vocabulary(store: Store, name: str) -> Iterator[VocabularyWriter]:
    """A new vocabulary file, which exists once the block ends without an error."""
    with store.write(name) as file:
        writer = VocabularyWriter(file)
        try:
            yield writer
        finally:  # after an error too: otherwise Arrow closes it later, when the file is gone
            writer.close()


class VocabularyWriter:
    """Writes a vocabulary in row groups of one size, whatever the size of its blocks."""

    _SCHEMA = pa.schema([("value", pa.string()), ("id", pa.int32()), ("count", pa.int64())])

    def __init__(self, file: IO[bytes]) -> None:
        self._sink = HashingFile(file)
        # No value occurs twice, so a dictionary would only take space.
        self._writer = pq.ParquetWriter(
            self._sink,
            self._SCHEMA,
            compression="zstd",
            use_dictionary=False,
            column_encoding={
                "value": "PLAIN",
                "id": "DELTA_BINARY_PACKED",
                "count": "DELTA_BINARY_PACKED",
            },
        )
        self._waiting: list[pa.Table] = []
        self.sha256 = ""
        """Hash of the file, once it is closed."""

    def write(self, texts: Strings, first_id: int, counts: np.ndarray) -> None:
        """Appends values with consecutive ids."""
        ids = np.arange(first_id, first_id + len(texts), dtype=np.int32)
        columns = [texts.array().cast(pa.string()), pa.array(ids), pa.array(counts)]
        self._waiting.append(pa.Table.from_arrays(columns, schema=self._SCHEMA))
        while sum(t.num_rows for t in self._waiting) >= GROUP_ROWS:
            rows = pa.concat_tables(self._waiting)
            self._group(rows.slice(0, GROUP_ROWS))
            self._waiting = [rows.slice(GROUP_ROWS)]

    def close(self) -> None:
        """Writes the remaining rows and the footer."""
        rest = pa.concat_tables(self._waiting) if self._waiting else None
        if rest is not None and rest.num_rows:
            self._group(rest)
        self._writer.close()
        self.sha256 = self._sink.sha256.hexdigest()

    def _group(self, rows: pa.Table) -> None:
        self._writer.write_table(rows.combine_chunks(), row_group_size=GROUP_ROWS)
