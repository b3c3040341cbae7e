"""Blocks of ORC files, by whole stripes."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import pyarrow as pa
from pyarrow import orc

from preprocessing.config.settings import FormatConfig
from preprocessing.sources.columnar import BLOCK_ROWS, COPY, OTHER, ColumnarBlock, named_errors
from preprocessing.sources.raw_block import TableConfig, check_names, with_nulls
from preprocessing.sources.shards import ByteRange
from preprocessing.sources.text_blocks import open_stored


@dataclass
class OrcBlock(ColumnarBlock):
    """Some rows of an ORC file; `first` counts from the beginning of the block's stripe."""

    byte_range: ByteRange
    stripe: int

    def numbers(self, rows: Sequence[int]) -> list[int]:
        """The numbers of some rows in the file, from 1."""
        before = _rows_before(self.byte_range, self.stripe)
        return [before + number for number in super().numbers(rows)]


def raw_blocks(byte_range: ByteRange, table: TableConfig, block_bytes: int) -> Iterator[OrcBlock]:
    """The rows of the stripes of a byte range, in order, BLOCK_ROWS per block.

    Raises:
        DataError: no ORC file, a damaged one, or one that lacks a column.
    """
    with open_stored(byte_range) as file, named_errors(byte_range, "cannot be read", COPY):
        with named_errors(byte_range, "not an ORC file", OTHER):
            size = file.seek(0, io.SEEK_END)
            content = orc.ORCFile(file)
        names = content.schema.names
        check_names(f"{byte_range.name}: it has", names, [c.name for c in table.columns])
        wanted = list(names if table.wanted is None else table.wanted)
        stripes = _stripes(byte_range, content.nstripes, size)
        for stripe in stripes:
            rows = pa.table(content.read_stripe(stripe, columns=wanted)).select(wanted)
            rows.validate(full=True)  # Arrow takes texts as they are, and fails on them later
            stored = (byte_range.end - byte_range.start) // len(stripes)
            for first in range(0, rows.num_rows, BLOCK_ROWS):
                part = with_nulls(rows.slice(first, BLOCK_ROWS).combine_chunks(), table)
                taken = stored * part.num_rows // rows.num_rows
                yield OrcBlock(byte_range.name, first, part, taken, byte_range, stripe)


def column_names(byte_range: ByteRange, layout: FormatConfig) -> list[str]:
    """The names of a file's columns; raises DataError, see :func:`raw_blocks`."""
    with open_stored(byte_range) as file, named_errors(byte_range, "not an ORC file", OTHER):
        return [*orc.ORCFile(file).schema.names]


def _stripes(byte_range: ByteRange, count: int, size: int) -> list[int]:
    """The stripes of a byte range: each is in exactly one range of its file.

    pyarrow does not tell where they begin; they are taken to be of equal size.
    """
    begins = (size * stripe // count for stripe in range(count))
    return [i for i, begin in enumerate(begins) if byte_range.start <= begin < byte_range.end]


@lru_cache(maxsize=16)
def _rows_before(byte_range: ByteRange, stripe: int) -> int:
    """Rows before a stripe; they are read only to word an error."""
    with open_stored(byte_range) as file:
        content = orc.ORCFile(file)
        some = content.schema.names[:1]
        return sum(content.read_stripe(i, columns=some).num_rows for i in range(stripe))
