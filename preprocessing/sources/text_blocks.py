"""Reads text block by block, so that memory is bounded and each line's number is known.

Blocks end at line ends, and each is parsed on its own: a block's first line is known by counting
line ends, and the same code reads a whole file, a compressed one and a range of bytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa

from ctrdist.errors import DataError
from ctrdist.storage import open_file, retry_unreachable_s3
from preprocessing.sources.shards import Piece, compression

BLOCK_BYTES = 16 * 2**20
MAX_LINE_BYTES = 64 * 2**20
_PART_BYTES = 2**20
_BOM = b"\xef\xbb\xbf"


@dataclass
class TextBlock:
    """Some lines of a piece."""

    piece: Piece
    raw: bytes
    """Ends with a line end."""
    skipped: int
    """Line ends between the start of the piece's first line and this block."""
    consumed: int
    """Bytes of the file, as it is stored, that were read since the block before."""

    def numbers(self, rows: Sequence[int]) -> list[int]:
        """Numbers in the file, from 1, of the lines that hold these rows; blank lines hold none."""
        filled = [i for i, line in enumerate(self.raw.split(b"\n")) if line.strip(b"\r")]
        first = _lines_before(self.piece) + self.skipped + 1
        return [first + filled[row] for row in rows]

    def line(self, row: int) -> str:
        """file:line of the block's row-th row that is not blank."""
        return f"{self.piece.name}:{self.numbers([row])[0]}"


def read_text(piece: Piece, block_bytes: int | None = None) -> Iterator[TextBlock]:
    """Blocks of a piece, in order. The header, where there is one, is still in the first.

    Args:
        piece: of a text.
        block_bytes: about how many bytes of text a block has; None: BLOCK_BYTES.

    Raises:
        DataError: a file that cannot be read, a damaged compressed one, or a line without an end.
    """
    skipped, consumed = 0, piece.start
    codec = compression(piece.url)
    with open_stored(piece) as file:
        # Held here: Arrow's stream closes the file as soon as nobody needs the stream.
        stream = pa.CompressedInputStream(file, codec) if codec else file
        for raw in _cut(_chunks(stream, piece, block_bytes or BLOCK_BYTES), piece):
            now = max(consumed, min(file.tell(), piece.end))
            yield TextBlock(piece=piece, raw=raw, skipped=skipped, consumed=now - consumed)
            skipped, consumed = skipped + raw.count(b"\n"), now


def without_blank_lines(raw: bytes) -> bytes:
    """The lines that hold something."""
    if raw[:1] not in b"\r\n" and b"\n\n" not in raw and b"\n\r" not in raw:
        return raw
    return b"".join(line + b"\n" for line in raw.split(b"\n") if line.strip(b"\r"))


@contextmanager
def open_stored(piece: Piece) -> Iterator[StoredFile]:
    """The stored bytes of a piece's file, whole.

    Raises:
        DataError: it cannot be opened or, later, read.
    """
    try:
        if piece.url.startswith("s3://"):
            retry_unreachable_s3()
        file = open_file(piece.url)
    except OSError as error:
        raise _not_read(piece, error) from error
    with StoredFile(file, piece) as stored:
        yield stored


class StoredFile(io.RawIOBase):
    """A file that says whose reading failed: Arrow hides it between its own errors."""

    def __init__(self, file: Any, piece: Piece) -> None:
        self._file = file
        self._piece = piece

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def read(self, size: int | None = -1) -> bytes:
        """Raises DataError where the store does not give the bytes."""
        try:
            return self._file.read(-1 if size is None else size)
        except Exception as error:  # each store has its own classes
            raise _not_read(self._piece, error) from error

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Reads nothing yet."""
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        """Bytes before the next one."""
        return int(self._file.tell())

    def close(self) -> None:
        """Also closes the file beneath."""
        if not self.closed:
            self._file.close()
        super().close()


def _not_read(piece: Piece, error: Exception) -> DataError:
    return DataError(
        f"{piece.name}: cannot be read ({error or type(error).__name__}). "
        "Check that it is still there, and the access to it; then start again."
    )


def _chunks(stream: Any, piece: Piece, size: int) -> Iterator[tuple[int, bytes]]:
    """Text with the position of its first byte, from one byte before the piece's start."""
    position = max(0, piece.start - 1)
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
                f"{piece.name}: damaged or cut off after {good:,} bytes of text ({error}). "
                "Copy the file again."
            ) from error
        if not parts:
            return
        yield position, b"".join(parts)
        position = good


def _cut(chunks: Iterator[tuple[int, bytes]], piece: Piece) -> Iterator[bytes]:
    """Whole lines: from the first that begins in the piece to the last that does."""
    end = 2**62 if compression(piece.url) else piece.end
    carry, started = b"", piece.start == 0
    for position, chunk in chunks:
        if position == 0 and started and chunk.startswith(_BOM):
            chunk, position = chunk[len(_BOM) :], len(_BOM)
        base = position - len(carry)
        chunk = carry + chunk
        if not started:
            begin = chunk.find(b"\n") + 1
            if begin == 0:
                carry = _bounded(chunk, piece)
                continue
            if base + begin >= end:
                return
            chunk, base, started = chunk[begin:], base + begin, True
        last = chunk.find(b"\n", max(0, end - 1 - base)) if base + len(chunk) >= end else -1
        if last >= 0:
            yield chunk[: last + 1]
            return
        cut = chunk.rfind(b"\n") + 1
        carry = _bounded(chunk[cut:], piece)
        if cut:
            yield chunk[:cut]
    if carry and started:
        yield carry + b"\n"


def _bounded(carry: bytes, piece: Piece) -> bytes:
    if len(carry) > MAX_LINE_BYTES:
        raise DataError(
            f"{piece.name}: a line of more than {MAX_LINE_BYTES:,} bytes. "
            "Give a text with one row per line."
        )
    return carry


@lru_cache(maxsize=16)
def _lines_before(piece: Piece) -> int:
    """Line ends before the first line that begins in the piece; read only to word an error."""
    if piece.start == 0:
        return 0
    count = 0
    with open_stored(piece) as file:
        left = piece.start - 1
        while left and (part := file.read(min(left, BLOCK_BYTES))):
            count += part.count(b"\n")
            left -= len(part)
        while part := file.read(_PART_BYTES):
            if b"\n" in part:
                return count + 1
    return count
