"""Tables from Parquet files, by whole row groups."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from ctrdist.errors import DataError
from ctrdist.features.columns import ColumnConfig
from preprocessing.sources.shards import Piece
from preprocessing.sources.text_blocks import open_stored

PARQUET_ROWS = 65536
"""Rows of a block."""
_DAMAGE = (pa.ArrowException, OSError, MemoryError, ValueError, LookupError, TypeError)
"""What pyarrow raises for a file with wrong bytes in it."""


def parquet_tables(
    piece: Piece, columns: Sequence[ColumnConfig], wanted: Sequence[str] | None
) -> Iterator[tuple[pa.Table, int, int]]:
    """The rows of a piece, in order.

    Args:
        piece: of a Parquet file.
        columns: those that the file must have.
        wanted: those to read; None: all.

    Yields:
        A table, the index in the file of its first row, and the stored bytes that it stands for.

    Raises:
        DataError: no Parquet file, a damaged one, or one that lacks a column.
    """
    with _opened(piece) as (parquet, size):
        there = parquet.schema_arrow.names
        lacking = [c.name for c in columns if c.name not in there]
        if lacking:
            raise DataError(
                f"{piece.name}: no column {', '.join(lacking)}; it has {', '.join(there)}. "
                "Correct `columns` in the data-set YAML."
            )
        twice = [c.name for c in columns if there.count(c.name) > 1]
        if twice:
            raise DataError(
                f"{piece.name}: it has column {', '.join(twice)} more than once. Rename one."
            )
        mine = _groups(parquet, piece, size)
        if not mine:
            return
        rows = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
        first, total = sum(rows[: mine[0]]), max(1, sum(rows[i] for i in mine))
        read = 0
        for batch in parquet.iter_batches(
            batch_size=PARQUET_ROWS,
            row_groups=mine,
            columns=list(there if wanted is None else wanted),
            use_threads=False,
        ):
            batch.validate(full=True)  # Arrow takes texts as they are, and fails on them later
            stored = (piece.end - piece.start) * batch.num_rows // total
            yield pa.table(batch), first + read, stored
            read += batch.num_rows
        if read != total and any(rows[i] for i in mine):
            raise _damaged(piece, f"{read:,} rows where {total:,} are announced")


@contextmanager
def _opened(piece: Piece) -> Iterator[tuple[pq.ParquetFile, int]]:
    """The file and its size."""
    with open_stored(piece) as file:
        try:
            size = file.seek(0, io.SEEK_END)
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
        except DataError:
            raise
        except _DAMAGE as error:
            raise DataError(
                f"{piece.name}: not a Parquet file ({_first_line(error)}). Correct `format.type`, "
                "or --input, or copy the file again."
            ) from error
        try:
            yield parquet, size
        except DataError:
            raise
        except _DAMAGE as error:
            raise _damaged(piece, _first_line(error)) from error


def _groups(parquet: pq.ParquetFile, piece: Piece, size: int) -> list[int]:
    """The row groups whose first byte is in the piece: each is in exactly one piece of its file."""
    found = []
    for index in range(parquet.num_row_groups):
        column = parquet.metadata.row_group(index).column(0)
        begin = column.dictionary_page_offset or column.data_page_offset
        if piece.start <= min(max(begin, 0), size - 1) < piece.end:
            found.append(index)
    return found


def _damaged(piece: Piece, why: str) -> DataError:
    return DataError(f"{piece.name}: damaged ({why}). Copy or write the file again.")


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
