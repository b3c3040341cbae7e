"""Rows of text whose columns are separated by a character, and the faults of lines."""

import codecs
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from ctrdist.errors import ConfigError, DataError
from ctrdist.features.faults import Fault
from preprocessing.config.settings import FormatConfig
from preprocessing.sources.dialect import (
    STAND_IN,
    escape_of,
    escapes_line_end,
    for_arrow,
    is_replaced,
    quote_of,
    separator_of,
    split_line,
)
from preprocessing.sources.raw_block import TableConfig, check_names
from preprocessing.sources.shards import ByteRange
from preprocessing.sources.text_blocks import (
    LinesOfFormat,
    TextBlock,
    read_text,
    without_blank_lines,
)

_HEADER_BYTES = 2**16


def line_fault(line: bytes, layout: FormatConfig, names: Sequence[str]) -> Fault | None:
    """The fault of a line of a file with these columns; None for one that parse_lines reads.

    The line is as in the file, without its line feed.
    """
    quote, escape, separator = quote_of(layout), escape_of(layout), separator_of(layout)
    by = {"\t": "tab"}.get(separator, separator)
    try:
        text = line.removesuffix(b"\r").decode(_codec(layout.encoding))
    except UnicodeError as error:
        return not_decoded(layout, error)
    if "\r" in text:
        return Fault("a carriage return within the line", "Fix the row.")
    if is_replaced(separator) and STAND_IN in text:
        return Fault(
            "the character 0x1F, which may not occur where the separator is longer than one "
            f"character ({by})",
            "Remove it from the row.",
        )
    count, opened = text.count(separator) + 1, False
    if escape and escapes_line_end(text.encode(), layout):
        return Fault(f"an escape ({escape}) before the end of the line", "Fix the row.")
    if (quote and quote in text) or (escape and escape in text):
        fields, opened = split_line(text, layout)
        count = len(fields)
    if opened:
        return Fault(
            f"a quote ({quote}) is opened and not closed on the line",
            "Fix the row, or set `format.quote` to the character in use, or to '' for none.",
        )
    if count != len(names):
        shown = ", ".join(names if len(names) <= 4 else [*names[:2], "…", names[-1]])
        return Fault(
            f"{count} columns, expected {len(names)} ({shown}), separated by {by}",
            "Fix the row, or correct `columns` or `format` in the data-set YAML.",
        )
    return None


@dataclass
class DelimitedBlock(LinesOfFormat):
    """Rows of a text with separators."""

    names: list[str]
    """All columns of the file, in its order."""

    def read_all(self) -> pa.Table | None:
        """The wanted columns; None where a line may be malformed."""
        return self._read(without_blank_lines(self.raw))

    def read_good(self) -> tuple[pa.Table, np.ndarray, list[tuple[int, Fault]]]:
        """The wanted columns of the lines without a fault."""
        found = [line_fault(line, self.table.layout, self.names) for line in self.lines]
        faults = [(row, fault) for row, fault in enumerate(found) if fault]
        good = [row for row, fault in enumerate(found) if not fault]
        columns = self._read(b"".join(self.lines[row] + b"\n" for row in good))
        if columns is None:
            kind = self.table.layout.type
            raise DataError(f"{self.where(0)} and following: not readable as {kind}. Fix the rows.")
        return columns, np.asarray(good, np.int64), faults

    def _read(self, raw: bytes) -> pa.Table | None:
        wanted = self.names if self.table.wanted is None else self.table.wanted
        return parse_lines(raw, self.table.layout, self.names, wanted)


def raw_blocks(
    byte_range: ByteRange, table: TableConfig, block_bytes: int
) -> Iterator[DelimitedBlock]:
    """Blocks of a byte range without the header.

    Raises:
        DataError: the header lacks a column or has one twice, or see :func:`read_text`. A file
            without lines has no rows, as Spark writes one for an empty part.
    """
    needed = [c.name for c in table.columns]
    names = None if table.layout.header else needed
    if names is None and byte_range.start:  # the header is not in this range
        for text in _first_lines(byte_range):
            names = _header(text, table.layout, needed)
    for text in read_text(byte_range, block_bytes):
        raw, skipped = text.raw, text.skipped
        if names is None and text.lines:
            names = _header(text, table.layout, needed)
            raw, skipped = _without_header(text)
        if names is not None:
            yield DelimitedBlock(byte_range, raw, skipped, text.consumed, table, names)


def column_names(byte_range: ByteRange, layout: FormatConfig) -> list[str]:
    """The names in a file's header; raises DataError, see :func:`raw_blocks`."""
    for text in _first_lines(byte_range):
        return _header(text, layout, [])
    return []


def _first_lines(byte_range: ByteRange) -> Iterator[TextBlock]:
    """The first block of a file that has lines, if there is one."""
    for text in read_text(replace(byte_range, start=0, end=2**62), _HEADER_BYTES):
        if text.lines:
            yield text
            return


def parse_lines(
    raw: bytes, config: FormatConfig, names: Sequence[str], wanted: Sequence[str]
) -> pa.Table | None:
    """The wanted columns of lines, none of them blank; None if a line may be malformed."""
    rows = raw.count(b"\n")
    if rows == 0:
        return pa.table({name: pa.array([], pa.string()) for name in wanted})
    separator, quote, escape = separator_of(config), quote_of(config), escape_of(config)
    if b"\r" in raw and raw.count(b"\r") != raw.count(b"\r\n"):
        return None
    last = raw[raw.rfind(b"\n", 0, -1) + 1 : -1]
    if quote and quote.encode() in last and line_fault(last, config, names):
        return None  # Arrow takes a quote that is open at the end for a value with a line end
    if escapes_line_end(raw, config):
        return None
    try:
        raw = decoded(raw, config)
        if is_replaced(separator):
            if STAND_IN.encode() in raw:
                return None
            raw, separator = raw.replace(separator.encode(), STAND_IN.encode()), STAND_IN
        raw = for_arrow(raw, config)
        table = pa_csv.read_csv(
            pa.BufferReader(raw),
            read_options=pa_csv.ReadOptions(
                column_names=list(names), block_size=len(raw) + 1, use_threads=False
            ),
            parse_options=pa_csv.ParseOptions(
                delimiter=separator, quote_char=quote or False, escape_char=escape or False
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types={name: pa.string() for name in wanted},
                include_columns=list(wanted),
                strings_can_be_null=False,
            ),
        )
    except (pa.ArrowInvalid, UnicodeError):
        return None
    # Fewer rows than lines: an opened quote swallowed line ends.
    if table.num_rows != rows:
        return None
    if config.skip_blank:
        columns = [pc.utf8_trim(column, characters=" ") for column in table.columns]
        table = pa.table(columns, names=table.column_names)
    return table.combine_chunks()


def not_decoded(layout: FormatConfig, error: UnicodeError) -> Fault:
    """The fault of bytes that the encoding lacks."""
    reason = getattr(error, "reason", str(error))
    return Fault(
        f"not {layout.encoding} ({reason})",
        "Set `format.encoding` to the file's, such as latin-1; "
        "a compressed file's name must end in .gz or .zst.",
    )


def decoded(raw: bytes, layout: FormatConfig) -> bytes:
    """The text in UTF-8; raises UnicodeError."""
    return raw if raw.isascii() else raw.decode(_codec(layout.encoding)).encode()


def _header(block: TextBlock, layout: FormatConfig, needed: Sequence[str]) -> list[str]:
    """The names in the first line that is not blank; repeated names become unique if not needed."""
    line = block.lines[0].removesuffix(b"\r")
    try:
        text = line.decode(_codec(layout.encoding))
    except UnicodeError as error:
        raise not_decoded(layout, error).error(block.where(0)) from error
    fields, opened = split_line(text, layout)
    if opened:
        quote = quote_of(layout)
        raise DataError(f"{block.where(0)}: a quote ({quote}) stays open in the header. Fix it.")
    if layout.skip_blank:
        fields = [field.strip(" ") for field in fields]
    check_names(f"{block.where(0)}: the header has", fields, needed)
    counts = Counter(fields)
    return [name if counts[name] == 1 else f"{name}\0{i}" for i, name in enumerate(fields)]


def _without_header(block: TextBlock) -> tuple[bytes, int]:
    """The lines after the header, and the line ends that precede them in the range."""
    lines = block.raw.split(b"\n")
    first = next(i for i, line in enumerate(lines) if line.strip(b"\r"))
    return b"\n".join(lines[first + 1 :]), block.skipped + first + 1


@lru_cache
def _codec(encoding: str) -> str:
    """Python's name of an encoding; raises ConfigError for one that does not keep ASCII."""
    try:
        if bytes(range(128)).decode(encoding).encode() == bytes(range(128)):
            return codecs.lookup("utf-8" if encoding == "ascii" else encoding).name
    except (LookupError, UnicodeError):
        pass
    raise ConfigError(
        f"format.encoding is {encoding}; give one of Python's encodings that keep ASCII, such as "
        "utf-8 or latin-1, and convert other files."
    )
