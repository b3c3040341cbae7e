"""Blocks of lines: memory is bounded, and each line's number is known.

Blocks end at line ends, and each is parsed on its own. The same code reads a whole file, a
compressed one and a byte range.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import IO, Any

import numpy as np
import pyarrow as pa

from ctrdist.errors import DataError
from ctrdist.features.faults import Fault
from ctrdist.storage import open_file, retry_unreachable_s3
from preprocessing.sources.dialect import MAX_LINE_BYTES
from preprocessing.sources.raw_block import Block, TableConfig, with_nulls
from preprocessing.sources.shards import ByteRange, compression

BLOCK_BYTES = 16 * 2**20
_PART_BYTES = 2**20
_BOM = b"\xef\xbb\xbf"


@dataclass
class TextBlock:
    """Some lines of a byte range."""

    byte_range: ByteRange
    raw: bytes
    """The lines; it ends with a line end."""
    skipped: int
    """Line ends between the start of the range's first line and this block."""
    consumed: int
    """Bytes of the stored file that were read since the block before."""

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.byte_range.name

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return len(self.raw)

    @cached_property
    def lines(self) -> list[bytes]:
        """The lines that are not blank, without line feeds: one for each row."""
        return without_blank_lines(self.raw).split(b"\n")[:-1]

    def numbers(self, rows: Sequence[int]) -> list[int]:
        """The numbers of these rows' lines in the file, from 1; blank lines hold no row."""
        filled = [i for i, line in enumerate(self.raw.split(b"\n")) if line.strip(b"\r")]
        first = _lines_before(self.byte_range) + self.skipped + 1
        return [first + filled[row] for row in rows]

    def where(self, row: int) -> str:
        """The place of a row: file:line."""
        return f"{self.name}:{self.numbers([row])[0]}"

    def content(self, row: int) -> bytes:
        """The line of a row."""
        return self.lines[row]


@dataclass
class LinesOfFormat(TextBlock):
    """Lines with the two ways in which their format reads them."""

    table: TableConfig

    def read_all(self) -> pa.Table | None:
        """The columns, read at once; None where a line may be malformed."""
        raise NotImplementedError

    def read_good(self) -> tuple[pa.Table, np.ndarray, list[tuple[int, Fault]]]:
        """The columns of the well-formed lines, their (n,) indices, and the faults of others."""
        raise NotImplementedError

    def parse(self) -> Block:
        """The rows; raises DataError for a malformed row and names the first."""
        columns = self.read_all()
        if columns is None:
            columns, _, faults = self.read_good()
            for row, fault in faults:
                raise fault.error(self.where(row))
        return Block(with_nulls(columns, self.table), self.where)

    def parse_good_rows(self) -> tuple[pa.Table, np.ndarray, list[tuple[int, Fault]]]:
        """The well-formed rows, their (n,) indices in the block, and index and fault of others."""
        columns, rows, faults = self.read_good()
        return with_nulls(columns, self.table), rows, faults


def read_text(byte_range: ByteRange, block_bytes: int = BLOCK_BYTES) -> Iterator[TextBlock]:
    """Blocks of about `block_bytes` bytes of text, in order; a header is still in the first.

    Raises:
        DataError: a file that cannot be read, a damaged compressed one, or a line without an end.
    """
    skipped, consumed = 0, byte_range.start
    codec = compression(byte_range.url)
    with open_stored(byte_range) as file:
        # Held here: Arrow's stream closes the file as soon as nobody needs the stream.
        stream = pa.CompressedInputStream(file, codec) if codec else file
        for raw in _cut(_chunks(stream, byte_range, block_bytes), byte_range):
            now = max(consumed, min(file.tell(), byte_range.end))
            yield TextBlock(byte_range, raw, skipped, now - consumed)
            skipped, consumed = skipped + raw.count(b"\n"), now


def without_blank_lines(raw: bytes) -> bytes:
    """The lines that hold something."""
    if raw[:1] not in b"\r\n" and b"\n\n" not in raw and b"\n\r" not in raw:
        return raw
    return b"".join(line + b"\n" for line in raw.split(b"\n") if line.strip(b"\r"))


@contextmanager
def open_stored(byte_range: ByteRange) -> Iterator[StoredFile]:
    """The stored bytes of a byte range's file, whole.

    Raises:
        DataError: it cannot be opened or, later, read.
    """
    try:
        if byte_range.url.startswith("s3://"):
            retry_unreachable_s3()
        file = open_file(byte_range.url)
    except OSError as error:
        raise _not_read(byte_range, error) from error
    with closing(file):
        yield StoredFile(file, byte_range)


class StoredFile:
    """A file whose errors name it: Arrow hides the cause among errors of its own."""

    def __init__(self, file: IO[bytes], byte_range: ByteRange) -> None:
        self._file = file
        self._byte_range = byte_range

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size: int | None = -1) -> bytes:
        """Reads bytes; raises DataError where the store fails."""
        try:
            return self._file.read(-1 if size is None else size)
        except Exception as error:  # each store has its own classes
            raise _not_read(self._byte_range, error) from error


def _not_read(byte_range: ByteRange, error: Exception) -> DataError:
    return DataError(
        f"{byte_range.name}: cannot be read ({error or type(error).__name__}). "
        "Check that it is still there, and the access to it; then start again."
    )


def _chunks(stream: Any, byte_range: ByteRange, size: int) -> Iterator[tuple[int, bytes]]:
    """Text with the offset of its first byte, from one byte before the start of the range."""
    position = max(0, byte_range.start - 1)
    if position:
        stream.seek(position)
    # A compressed one is read in small parts: where it is damaged, a read loses all that it read.
    whole = isinstance(stream, StoredFile)
    while True:
        parts: list[bytes] = []
        good = position
        try:
            while left := position + size - good:  # one read may return less than asked
                part = stream.read(left if whole else min(_PART_BYTES, left))
                if not part:
                    break
                parts.append(part)
                good += len(part)
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"{byte_range.name}: damaged or cut off after {good:,} bytes of text ({error}). "
                "Copy the file again."
            ) from error
        if not parts:
            return
        yield position, b"".join(parts)
        position = good


def _cut(chunks: Iterator[tuple[int, bytes]], byte_range: ByteRange) -> Iterator[bytes]:
    """Whole lines: from the first that begins in the range to the last that does."""
    end = 2**62 if compression(byte_range.url) else byte_range.end
    carry, started = b"", byte_range.start == 0
    for position, chunk in chunks:
        if position == 0 and started and chunk.startswith(_BOM):
            chunk, position = chunk[len(_BOM) :], len(_BOM)
        base = position - len(carry)
        chunk = carry + chunk
        if not started:
            begin = chunk.find(b"\n") + 1
            if begin == 0:
                carry = _bounded(chunk, byte_range)
                continue
            if base + begin >= end:
                return
            chunk, base, started = chunk[begin:], base + begin, True
        last = chunk.find(b"\n", max(0, end - 1 - base)) if base + len(chunk) >= end else -1
        if last >= 0:
            yield chunk[: last + 1]
            return
        cut = chunk.rfind(b"\n") + 1
        carry = _bounded(chunk[cut:], byte_range)
        if cut:
            yield chunk[:cut]
    if carry and started:
        yield carry + b"\n"


def _bounded(carry: bytes, byte_range: ByteRange) -> bytes:
    if len(carry) > MAX_LINE_BYTES:
        raise DataError(
            f"{byte_range.name}: a line of more than {MAX_LINE_BYTES:,} bytes. "
            "Give a text with one row per line."
        )
    return carry


@lru_cache(maxsize=16)
def _lines_before(byte_range: ByteRange) -> int:
    """Line ends before the first line that begins in the range; read only to word an error."""
    if byte_range.start == 0:
        return 0
    count = 0
    with open_stored(byte_range) as file:
        left = byte_range.start - 1
        while left and (part := file.read(min(left, BLOCK_BYTES))):
            count += part.count(b"\n")
            left -= len(part)
        return count + file.readline().endswith(b"\n")
