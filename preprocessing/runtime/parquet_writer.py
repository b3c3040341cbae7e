"""Writes the Parquet files of a data set: its rows and its vocabularies."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ctrdist.storage import HashingFile, Store


class ParquetWriter:
    """Writes row groups of one size, the last excepted, whatever the size of the tables it gets."""

    def __init__(self, file: IO[bytes], schema: pa.Schema, group_rows: int, **options: Any) -> None:
        """`options` are those of pyarrow's ParquetWriter."""
        self._sink = HashingFile(file)
        self._writer = pq.ParquetWriter(self._sink, schema, compression="zstd", **options)
        self._size = group_rows
        self._waiting: list[pa.Table] = []
        self._rows = 0
        self.row_groups: list[int] = []
        """Rows of each row group."""

    @property
    def sha256(self) -> str:
        """Hash of the file, once it is closed."""
        return self._sink.sha256.hexdigest()

    def write(self, table: pa.Table) -> None:
        """Appends rows."""
        self._waiting.append(table)
        self._rows += table.num_rows
        while self._rows >= self._size:
            rows = pa.concat_tables(self._waiting)
            self._write_group(rows.slice(0, self._size))
            self._waiting = [rows.slice(self._size)]
            self._rows -= self._size

    def close(self) -> None:
        """Writes the remaining rows and the footer."""
        if self._rows:
            self._write_group(pa.concat_tables(self._waiting))
        self._writer.close()

    def abandon(self) -> None:
        """Closes Arrow's writer after an error; it would do so later, when the file is gone."""
        with suppress(Exception):  # the first error is the one to report
            self._writer.close()

    def _write_group(self, rows: pa.Table) -> None:
        self._writer.write_table(rows.combine_chunks(), row_group_size=self._size)
        self.row_groups.append(rows.num_rows)


@contextmanager
def new_parquet_file(
    store: Store, name: str, schema: pa.Schema, group_rows: int, **options: Any
) -> Iterator[ParquetWriter]:
    """A new file, which exists once the block ends without an error."""
    with store.write(name) as file:
        writer = ParquetWriter(file, schema, group_rows, **options)
        try:
            yield writer
            writer.close()
        except BaseException:
            writer.abandon()
            raise
