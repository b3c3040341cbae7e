"""A bounded sample of a log: lines from the beginning, the middle and the end of files."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ctrdist.errors import DataError
from preprocessing.sources.shards import ByteRange, compression
from preprocessing.sources.text_blocks import open_stored, read_text

SAMPLED_FILES = 12
NAMED_FILES = 200
"""So many files are asked for the names of their columns."""
_BLOCKS = 30
"""A compressed file is read up to this many times the text that is kept of it."""
_MAGIC_BYTES = 8
_MAGIC = {
    b"PAR1": "parquet",
    b"ORC": "orc",
}
_REFUSED = {
    b"PK\x03\x04": "a zip archive; unpack it",
    b"BZh": "compressed by bzip2; decompress it, or compress it by gzip or zstd",
    b"\xfd7zXZ": "compressed by xz; decompress it, or compress it by gzip or zstd",
    b"Obj\x01": "an Avro file; convert it to Parquet or JSON lines",
    b"\x89HDF": "an HDF5 file; convert it to Parquet or CSV",
    b"\x93NUMPY": "a NumPy file; convert it to Parquet or CSV",
    b"\xff\xfe": "UTF-16; convert it: iconv -f UTF-16 -t UTF-8",
    b"\xfe\xff": "UTF-16; convert it: iconv -f UTF-16 -t UTF-8",
}
_COMPRESSED = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst"}


@dataclass(frozen=True)
class Piece:
    """Some lines of a file that follow one another."""

    file: ByteRange
    is_start: bool
    """They begin with the file's first line."""
    lines: list[bytes]
    """The lines that are not blank, without line feeds."""
    text_bytes: int
    """Bytes of the lines with their ends."""
    stored_bytes: int
    """Bytes of the stored file that were read for them."""


def spread(items: Sequence[ByteRange], most: int) -> list[ByteRange]:
    """At most so many of the items, the first and the last among them, evenly spread."""
    if len(items) <= most:
        return list(items)
    return [items[i * (len(items) - 1) // (most - 1)] for i in range(most)]


def kind_of(file: ByteRange) -> str:
    """The format that a file's first bytes tell: parquet, orc or text.

    Raises:
        DataError: it cannot be read, or it is of a kind that preprocessing does not take.
    """
    with open_stored(file) as stored:
        magic = stored.read(_MAGIC_BYTES)
    for begin, kind in _MAGIC.items():
        if magic.startswith(begin):
            return kind
    for begin, what in _REFUSED.items():
        if magic.startswith(begin):
            raise DataError(f"{file.name}: this is {what}.")
    for begin, suffix in _COMPRESSED.items():
        if magic.startswith(begin) and compression(file.url) is None:
            raise DataError(
                f"{file.name}: this is compressed, and its name does not end in {suffix}. "
                "Rename it."
            )
    return "text"


def read_pieces(files: Sequence[ByteRange], sample_bytes: int) -> list[Piece]:
    """Pieces of at most SAMPLED_FILES of the text files, with lines, in log order.

    Raises:
        DataError: a file that cannot be read or is damaged, or lines that do not end in LF.
    """
    chosen = spread(files, SAMPLED_FILES)
    pieces = []
    for file in chosen:
        pieces += _pieces_of(file, max(2**16, sample_bytes // len(chosen)))
    found = [piece for piece in pieces if piece.lines]
    for piece in found:
        line = piece.lines[0].rstrip(b"\r")
        if line.count(b"\r") > 1:
            raise DataError(
                f"{piece.file.name}: lines end in a carriage return alone. Convert them: "
                "tr '\\r' '\\n' < IN > OUT"
            )
        if b"\0" in line:
            raise DataError(f"{piece.file.name}: zero bytes in its first line; it is no text.")
    if not found:
        names = ", ".join(file.name for file in chosen[:3])
        raise DataError(f"{names}: no rows; all files are empty. Give files with rows.")
    return found


def first_line(file: ByteRange) -> bytes:
    """The first line of a text file; empty where it has none."""
    for block in read_text(replace(file, end=1), 2**16):
        if block.lines:
            return block.lines[0]
    return b""


def _pieces_of(file: ByteRange, size: int) -> list[Piece]:
    if compression(file.url):
        return _pieces_of_stream(file, size)
    if file.end <= size:
        return _read(file, size)
    third = size // 3
    starts = (0, (file.end - third) // 2, file.end - third)
    return [p for s in starts for p in _read(replace(file, start=s, end=s + third), third)]


def _read(part: ByteRange, block_bytes: int) -> list[Piece]:
    return [
        Piece(part, part.start == 0 and not block.skipped, block.lines, block.size, block.consumed)
        for block in read_text(part, block_bytes)
    ]


def _pieces_of_stream(file: ByteRange, size: int) -> list[Piece]:
    """Pieces from the first lines to the last that are decompressed, evenly spread."""
    kept: list[Piece] = []
    block_bytes, step, text, index = max(2**14, size // 16), 1, 0, 0
    for index, block in enumerate(read_text(file, block_bytes)):
        piece = Piece(file, index == 0, block.lines, block.size, block.consumed)
        if index % step == 0:
            kept.append(piece)
        if len(kept) > 16:  # all that were read, at half as many places
            kept, step = kept[::2], step * 2
        text += block.size
        if text > _BLOCKS * size:
            break
    if index % step:
        kept.append(piece)
    return kept
