"""Blocks of Parquet files, by whole row groups."""

import io
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from ctrdist.errors import DataError
from preprocessing.config.settings import FormatConfig
from preprocessing.sources.columnar import BLOCK_ROWS, COPY, OTHER, ColumnarBlock, named_errors
from preprocessing.sources.raw_block import TableConfig, check_names, with_nulls
from preprocessing.sources.shards import ByteRange
from preprocessing.sources.text_blocks import open_stored


def raw_blocks(
    byte_range: ByteRange, table: TableConfig, block_bytes: int
) -> Iterator[ColumnarBlock]:
    """The rows of the row groups that begin in a byte range, in order, BLOCK_ROWS per block.

    Raises:
        DataError: no Parquet file, a damaged one, or one that lacks a column.
    """
    with open_stored(byte_range) as file, named_errors(byte_range, "damaged", COPY):
        with named_errors(byte_range, "not a Parquet file", OTHER):
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
            batch_size=BLOCK_ROWS,
            row_groups=groups,
            columns=list(names if table.wanted is None else table.wanted),
            use_threads=False,
        ):
            batch.validate(full=True)  # Arrow takes texts as they are, and fails on them later
            stored = (byte_range.end - byte_range.start) * batch.num_rows // total
            rows_of_batch = with_nulls(pa.table(batch), table)
            yield ColumnarBlock(byte_range.name, first + read, rows_of_batch, stored)
            read += batch.num_rows
        if read != total:
            why = f"{read:,} rows where {total:,} are announced"
            raise DataError(f"{byte_range.name}: damaged ({why}). {COPY}")


def column_names(byte_range: ByteRange, layout: FormatConfig) -> list[str]:
    """The names of a file's columns; raises DataError, see :func:`raw_blocks`."""
    with open_stored(byte_range) as file, named_errors(byte_range, "not a Parquet file", OTHER):
        return [*pq.read_schema(file).names]


def _row_groups(parquet: pq.ParquetFile, byte_range: ByteRange, size: int) -> list[int]:
    """The row groups whose first byte is in the range: each is in exactly one range of its file."""
    found = []
    for index in range(parquet.num_row_groups):
        column = parquet.metadata.row_group(index).column(0)
        begin = column.dictionary_page_offset or column.data_page_offset
        if byte_range.start <= min(max(begin, 0), size - 1) < byte_range.end:
            found.append(index)
    return found
