"""Reads text logs block by block, and says on which line an error is.

Blocks end at line ends, and each is parsed on its own: memory is bounded, a block's first line is
known by counting line ends, and the same code reads a whole file, a compressed one and a range of
bytes.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.csv as pa_csv

from ctrdist.errors import DataError
from preprocessing.config import ColumnConfig, FormatConfig
from preprocessing.inputs import Shard, compression

BLOCK_BYTES = 16 * 2**20
MAX_LINE_BYTES = 64 * 2**20
_STAND_IN = b"\x1f"  # Arrow separates at one character: longer separators are replaced by this
_BOM = b"\xef\xbb\xbf"


@dataclass
class TextBlock:
    """Some lines of a shard."""

    shard: Shard
    raw: bytes
    """Ends with a line end."""
    skipped: int
    """Line ends between the start of the shard's first line and this block."""
    consumed: int
    """Bytes of the file, as it is stored, that were read since the block before."""

    def line(self, row: int) -> str:
        """file:line of the block's row-th row that is not blank."""
        index = [i for i, line in enumerate(self.raw.split(b"\n")) if line.strip(b"\r")][row]
        return f"{self.shard.name}:{_lines_before(self.shard) + self.skipped + index + 1}"


def read_text(shard: Shard) -> Iterator[TextBlock]:
    """Blocks of a shard, in order. The header, where there is one, is still in the first.

    Raises:
        DataError: a damaged compressed file, or a line without an end.
    """
    skipped, consumed = 0, shard.start
    with fsspec.open(shard.url, "rb") as file:
        for raw in _cut(_lines(_stream(file, shard.url), shard), shard):
            now = file.tell()
            yield TextBlock(
                shard=shard,
                raw=raw,
                skipped=skipped,
                consumed=max(0, min(now, shard.end) - consumed),
            )
            skipped, consumed = skipped + raw.count(b"\n"), max(consumed, min(now, shard.end))


def count_lines(block: TextBlock) -> int:
    """Rows of a block, a header included."""
    return _without_blank_lines(block.raw).count(b"\n")


def file_columns(shard: Shard, config: FormatConfig, columns: Sequence[ColumnConfig]) -> list[str]:
    """Names of the columns in the file, in its order: from its header, or those of the config.

    Raises:
        DataError: the header lacks a column.
    """
    if not config.header:
        return [c.name for c in columns]
    whole = Shard(url=shard.url, name=shard.name, start=0, end=2**62)
    for block in read_text(whole):
        lines = _without_blank_lines(_recode(block, config)).split(b"\n")
        if lines[0]:
            names = _fields(lines[0].decode().rstrip("\r"), config)
            lacking = [c.name for c in columns if c.name not in names]
            if lacking:
                raise DataError(
                    f"{block.line(0)}: the header has no column {', '.join(lacking)}; "
                    f"it has {', '.join(names)}. "
                    "Correct `columns` or `format` in the data-set YAML."
                )
            return names
    raise DataError(
        f"{shard.name}: empty; it should begin with a header. Set `format.header` if it has none."
    )


def parse_text(
    block: TextBlock, config: FormatConfig, names: Sequence[str], wanted: Sequence[str]
) -> pa.Table:
    """Columns of a block as text; one row per line that is not blank.

    Args:
        block: without the header.
        config: the layout.
        names: all columns of the file, in its order.
        wanted: the columns to keep.

    Raises:
        DataError: a line has another number of columns, or bytes that are not of the encoding.
    """
    raw = _without_blank_lines(_recode(block, config))
    rows = raw.count(b"\n")
    strings = {name: pa.string() for name in wanted}
    if rows == 0:
        return pa.table({name: pa.array([], pa.string()) for name in wanted})
    try:
        table = pa_csv.read_csv(
            pa.BufferReader(raw),
            read_options=pa_csv.ReadOptions(
                column_names=list(names), block_size=len(raw) + 1, use_threads=False
            ),
            parse_options=pa_csv.ParseOptions(
                delimiter=_delimiter(config), quote_char=quote_of(config) or False
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types=strings, include_columns=list(wanted), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise _explain(block, raw, config, names, str(error)) from error
    if table.num_rows != rows:  # an opened quote swallowed line ends
        raise _explain(
            block, raw, config, names, f"{rows} lines, and {table.num_rows} rows in them"
        )
    return table.combine_chunks()


def drop_header(block: TextBlock) -> TextBlock:
    """The block without its first line that is not blank."""
    lines = block.raw.split(b"\n")
    first = next((i for i, line in enumerate(lines) if line.strip(b"\r")), len(lines) - 1)
    rest = b"\n".join(lines[first + 1 :])
    return TextBlock(
        shard=block.shard, raw=rest, skipped=block.skipped + first + 1, consumed=block.consumed
    )


def _stream(file: IO[bytes], path: str) -> Any:
    codec = compression(path)
    return pa.CompressedInputStream(file, codec) if codec else file


def _lines(stream: Any, shard: Shard) -> Iterator[tuple[int, bytes]]:
    """Chunks with the position of their first byte, from one byte before the shard's start."""
    position = max(0, shard.start - 1)
    if position:
        stream.seek(position)
    while True:
        try:
            chunk = b"".join(_full(stream))
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(
                f"{shard.name}: damaged or cut off ({error}). Copy the file again."
            ) from error
        if not chunk:
            return
        yield position, chunk
        position += len(chunk)


def _full(stream: Any) -> Iterator[bytes]:
    """Parts of BLOCK_BYTES in all, unless the stream ends: one read may return less than asked."""
    left = BLOCK_BYTES
    while left and (part := stream.read(left)):
        yield part
        left -= len(part)


def _cut(chunks: Iterator[tuple[int, bytes]], shard: Shard) -> Iterator[bytes]:
    """Whole lines: from the first that begins in the shard to the last that does."""
    end = 2**62 if compression(shard.url) else shard.end
    carry, started = b"", shard.start == 0
    for position, chunk in chunks:
        if position == 0 and started and chunk.startswith(_BOM):
            chunk, position = chunk[len(_BOM) :], len(_BOM)
        base = position - len(carry)
        chunk = carry + chunk
        if not started:
            begin = chunk.find(b"\n") + 1
            if begin == 0:
                carry = _bounded(chunk, shard)
                continue
            if base + begin >= end:
                return
            chunk, base, started = chunk[begin:], base + begin, True
        last = chunk.find(b"\n", max(0, end - 1 - base)) if base + len(chunk) >= end else -1
        if last >= 0:
            yield chunk[: last + 1]
            return
        cut = chunk.rfind(b"\n") + 1
        carry = _bounded(chunk[cut:], shard)
        if cut:
            yield chunk[:cut]
    if carry and started:
        yield carry + b"\n"


def _bounded(carry: bytes, shard: Shard) -> bytes:
    if len(carry) > MAX_LINE_BYTES:
        raise DataError(
            f"{shard.name}: a line of more than {MAX_LINE_BYTES:,} bytes. "
            "Give a text with one row per line."
        )
    return carry


def _without_blank_lines(raw: bytes) -> bytes:
    if raw[:1] not in b"\r\n" and b"\n\n" not in raw and b"\n\r\n" not in raw:
        return raw
    return b"".join(line + b"\n" for line in raw.split(b"\n") if line.strip(b"\r"))


def _recode(block: TextBlock, config: FormatConfig) -> bytes:
    """The block in UTF-8, columns separated by one character."""
    raw = block.raw
    if config.encoding.lower() not in ("utf-8", "utf8", "ascii"):
        try:
            raw = raw.decode(config.encoding).encode()
        except UnicodeDecodeError as error:
            raise _not_decoded(block, error, config) from error
    separator = separator_of(config)
    if len(separator) == 1:
        return raw
    if _STAND_IN in raw:
        row = _without_blank_lines(raw)[: _without_blank_lines(raw).index(_STAND_IN)].count(b"\n")
        raise DataError(
            f"{block.line(row)}: the character 0x1F, which may not occur where the separator is "
            f"longer than one character ({separator}). Remove it from the row."
        )
    return raw.replace(separator.encode(), _STAND_IN)


def separator_of(config: FormatConfig) -> str:
    """What stands between two columns of a text."""
    return config.separator or {"tsv": "\t", "csv": ","}[config.type]


def _delimiter(config: FormatConfig) -> str:
    separator = separator_of(config)
    return separator if len(separator) == 1 else _STAND_IN.decode()


def quote_of(config: FormatConfig) -> str:
    """The character around values that contain the separator; empty for none."""
    return {"tsv": "", "csv": '"'}[config.type] if config.quote is None else config.quote


def _fields(line: str, config: FormatConfig) -> list[str]:
    quote = quote_of(config)
    if not quote:
        return line.split(_delimiter(config))
    return next(csv.reader([line], delimiter=_delimiter(config), quotechar=quote))


def _explain(
    block: TextBlock, raw: bytes, config: FormatConfig, names: Sequence[str], otherwise: str
) -> DataError:
    """The error of the first line that cannot be right: Arrow does not tell its number."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        return _not_decoded(block, error, config)
    separator = {"\t": "tab"}.get(separator_of(config), separator_of(config))
    for row, line in enumerate(text.split("\n")[:-1]):
        if "\r" in line.rstrip("\r"):
            return DataError(f"{block.line(row)}: a carriage return within the line. Fix the row.")
        count = len(_fields(line.rstrip("\r"), config))
        if count != len(names):
            return DataError(
                f"{block.line(row)}: {count} columns, expected {len(names)} "
                f"({_short(names)}), separated by {separator}. "
                "Fix the row, or correct `columns` or `format` in the data-set YAML."
            )
        quote = quote_of(config)
        if quote and line.count(quote) % 2:
            return DataError(
                f"{block.line(row)}: a quote ({quote}) is opened and not closed on the line. "
                "Fix the row, or set `format.quote` to the character in use, or to '' for none."
            )
    return DataError(f"{block.line(0)} and following: not readable as {config.type} ({otherwise}).")


def _not_decoded(block: TextBlock, error: UnicodeDecodeError, config: FormatConfig) -> DataError:
    lines = error.object[: error.start].split(b"\n")[:-1]
    row = sum(1 for line in lines if line.strip(b"\r"))  # blank ones may be gone by now
    return DataError(
        f"{block.line(row)}: not {config.encoding} ({error.reason}). "
        "Set `format.encoding` to the file's, such as latin-1; "
        "a compressed file's name must end in .gz or .zst."
    )


def _short(names: Sequence[str]) -> str:
    return ", ".join(names if len(names) <= 4 else [*names[:2], "…", names[-1]])


def _lines_before(shard: Shard) -> int:
    """Line ends before the first line that begins in the shard; read only to word an error."""
    if shard.start == 0:
        return 0
    count = 0
    with fsspec.open(shard.url, "rb") as file:
        left = shard.start - 1
        while left and (part := file.read(min(left, BLOCK_BYTES))):
            count += part.count(b"\n")
            left -= len(part)
        return count + file.readline().count(b"\n")
