"""Writes the Parquet files of a data set."""

from __future__ import annotations

from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from ctrdist.data.manifest import DataFile
from ctrdist.storage import HashingFile, Store

_COMPRESSION = "zstd"


class PartWriter:
    """Writes a Parquet file in row groups of one size, the last excepted, and hashes its bytes.

    Use as a context; the file exists once the context ends without an error.
    """

    def __init__(self, store: Store, name: str, schema: pa.Schema, row_group_size: int) -> None:
        self._opening = store.write(name)
        self._schema = schema
        self._name = name
        self._size = row_group_size
        self._waiting: list[pa.Table] = []
        self._rows = 0
        self._groups: list[int] = []

    def write(self, table: pa.Table) -> None:
        """Appends rows."""
        self._waiting.append(table)
        self._rows += table.num_rows
        while self._rows >= self._size:
            rows = pa.concat_tables(self._waiting)
            self._write_group(rows.slice(0, self._size))
            self._waiting = [rows.slice(self._size)]
            self._rows -= self._size

    def __enter__(self) -> PartWriter:
        self._sink = HashingFile(self._opening.__enter__())
        self._writer = pq.ParquetWriter(self._sink, self._schema, compression=_COMPRESSION)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                if self._rows:
                    self._write_group(pa.concat_tables(self._waiting))
                self._writer.close()
        except BaseException as late:
            self._opening.__exit__(type(late), late, late.__traceback__)
            raise
        self._opening.__exit__(kind, error, trace)

    @property
    def file(self) -> DataFile:
        """The file's entry in the manifest, once it is closed."""
        return DataFile(
            path=self._name, row_groups=tuple(self._groups), sha256=self._sink.sha256.hexdigest()
        )

    def _write_group(self, rows: pa.Table) -> None:
        self._writer.write_table(rows.combine_chunks(), row_group_size=self._size)
        self._groups.append(rows.num_rows)
