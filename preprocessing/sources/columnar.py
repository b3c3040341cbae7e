"""Blocks of files that store columns with types: Parquet and ORC."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ctrdist.errors import DataError
from ctrdist.features.faults import Fault, python_value
from preprocessing.sources.raw_block import Block
from preprocessing.sources.shards import ByteRange

COPY = "Copy or write the file again."
OTHER = "Correct `format.type`, or --input, or copy the file again."
BLOCK_ROWS = 65536
"""Rows of a block."""
_DAMAGE = (pa.ArrowException, OSError, MemoryError, ValueError, LookupError, TypeError)
"""Errors that pyarrow raises for a file with wrong bytes in it."""


@dataclass
class ColumnarBlock:
    """Some rows of a file; it has the members of LinesOfFormat."""

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
        """The rows, which the file has typed already."""
        return Block(self.table, self.where)

    def parse_good_rows(self) -> tuple[pa.Table, np.ndarray, list[tuple[int, Fault]]]:
        """All rows: none is malformed."""
        return self.table, np.arange(self.table.num_rows), []

    def numbers(self, rows: Sequence[int]) -> list[int]:
        """The numbers of some rows in the file, from 1."""
        return [self.first + row + 1 for row in rows]

    def where(self, row: int) -> str:
        """The place of a row: its file and number."""
        return f"{self.name}: row {self.numbers([row])[0]}"

    def content(self, row: int) -> bytes:
        """A row as a JSON object."""
        names, columns = self.table.column_names, self.table.columns
        values = {n: python_value(c[row]) for n, c in zip(names, columns, strict=True)}
        return json.dumps(values, default=str).encode()


@contextmanager
def named_errors(byte_range: ByteRange, fault: str, remedy: str) -> Iterator[None]:
    """Names the file in errors of Arrow."""
    try:
        yield
    except DataError:
        raise
    except _DAMAGE as error:
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{byte_range.name}: {fault} ({why}). {remedy}") from error
