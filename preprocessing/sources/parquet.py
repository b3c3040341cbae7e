"""Blocks of Parquet files, by whole row groups."""

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ctrdist.errors import DataError
from ctrdist.features.faults import Fault
from preprocessing.config.settings import FormatConfig
from preprocessing.sources.raw_block import Block, TableConfig, check_names, with_nulls
from preprocessing.sources.shards import ByteRange
from preprocessing.sources.text_blocks import open_stored

_COPY = "Copy or write the file again."
_OTHER = "Correct `format.type`, or --input, or copy the file again."
PARQUET_ROWS = 65536
"""Rows of a block."""
_DAMAGE = (pa.ArrowException, OSError, MemoryError, ValueError, LookupError, TypeError)
"""Errors that pyarrow raises for a file with wrong bytes in it."""


@dataclass
class ParquetBlock:
    """Some rows of a Parquet file; it has the members of LinesOfFormat."""

    name: str
    first: int
    """Index in the file of the first row."""
    table: pa.Table
    consumed: int

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return int(self.table.nbytes)

    def parse(self) -> Block:
        """The rows, which Parquet has typed already."""
        return Block(self.table, self.where)

    def parse_good_rows(self) -> tuple[pa.Table, np.ndarray, list[tuple[int, Fault]]]:
        """All rows: none is malformed."""
        return self.table, np.arange(self.table.num_rows), []

    def numbers(self, rows: Sequence[int]) -> list[int]:
        """The numbers of some rows in the file, from 1."""
        return [self.first + row + 1 for row in rows]

    def where(self, row: int) -> str:
        """The place of a row: its file and number."""
        return f"{self.name}: row {self.first + row + 1}"

    def content(self, row: int) -> bytes:
        """A row as a JSON object."""
        return json.dumps(self.table.slice(row, 1).to_pylist()[0], default=str).encode()


def raw_blocks(
    byte_range: ByteRange, table: TableConfig, block_bytes: int
) -> Iterator[ParquetBlock]:
    """The rows of the row groups that begin in a byte range, in order, PARQUET_ROWS per block.

    Raises:
        DataError: no Parquet file, a damaged one, or one that lacks a column.
    """
    with open_stored(byte_range) as file, _named(byte_range, "damaged", _COPY):
        with _named(byte_range, "not a Parquet file", _OTHER):
            size = file.seek(0, io.SEEK_END)
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
        names = parquet.schema_arrow.names
        check_names(f"{byte_range.name}: it has", names, [c.name for c in table.columns])
        groups = _row_groups(parquet, byte_range, size)
        if not groups:
            return
        rows = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
        first, total = sum(rows[: groups[0]]), sum(rows[i] for i in groups)
        read = 0
        for batch in parquet.iter_batches(
            batch_size=PARQUET_ROWS,
            row_groups=groups,
            columns=list(names if table.wanted is None else table.wanted),
            use_threads=False,
        ):
            batch.validate(full=True)  # Arrow takes texts as they are, and fails on them later
            stored = (byte_range.end - byte_range.start) * batch.num_rows // total
            rows_of_batch = with_nulls(pa.table(batch), table)
            yield ParquetBlock(byte_range.name, first + read, rows_of_batch, stored)
            read += batch.num_rows
        if read != total:
            why = f"{read:,} rows where {total:,} are announced"
            raise DataError(f"{byte_range.name}: damaged ({why}). {_COPY}")


def column_names(byte_range: ByteRange, layout: FormatConfig) -> list[str]:
    """The names of a file's columns; raises DataError, see :func:`raw_blocks`."""
    with open_stored(byte_range) as file, _named(byte_range, "not a Parquet file", _OTHER):
        return [*pq.read_schema(file).names]


@contextmanager
def _named(byte_range: ByteRange, fault: str, remedy: str) -> Iterator[None]:
    """Names the file in errors of Arrow."""
    try:
        yield
    except DataError:
        raise
    except _DAMAGE as error:
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{byte_range.name}: {fault} ({why}). {remedy}") from error


def _row_groups(parquet: pq.ParquetFile, byte_range: ByteRange, size: int) -> list[int]:
    """The row groups whose first byte is in the range: each is in exactly one range of its file."""
    found = []
    for index in range(parquet.num_row_groups):
        column = parquet.metadata.row_group(index).column(0)
        begin = column.dictionary_page_offset or column.data_page_offset
        if byte_range.start <= min(max(begin, 0), size - 1) < byte_range.end:
            found.append(index)
    return found
