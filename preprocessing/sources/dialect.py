"""The dialect of text with separators: quotes, escapes and blanks around values."""

import csv
import io
import re
from functools import lru_cache

from ctrdist.errors import ConfigError
from ctrdist.features.columns import without_escapes
from preprocessing.config.settings import INPUT_FORMATS, FormatConfig

STAND_IN = "\x1f"
"""Arrow separates at one byte; it replaces longer separators."""
MAX_LINE_BYTES = 64 * 2**20

csv.field_size_limit(MAX_LINE_BYTES)


def separator_of(layout: FormatConfig) -> str:
    """The text between two columns."""
    separator = without_escapes(layout.separator or INPUT_FORMATS[layout.type].separator)
    if "\n" in separator or "\r" in separator:
        raise ConfigError("format.separator has a line end in it; rows end there. Give another.")
    if layout.skip_blank and separator.strip(" ") != separator:
        raise ConfigError(
            "format.separator has a blank at an end, and format.skip_blank removes blanks around "
            "values. Give only one of them."
        )
    return separator


def quote_of(layout: FormatConfig) -> str:
    """The character around values that contain the separator; empty for none."""
    quote = INPUT_FORMATS[layout.type].quote if layout.quote is None else layout.quote
    quote = without_escapes(quote)
    if len(quote.encode()) > 1 or (quote and quote in "\r\n" + separator_of(layout)):
        raise ConfigError(
            f"format.quote is {quote!r}; give one ASCII character that is not in the separator, "
            "or '' for none."
        )
    return quote


def escape_of(layout: FormatConfig) -> str:
    """The character that makes the next one a part of its value; empty for none."""
    if not layout.escape:
        return ""
    escape, separator = without_escapes(layout.escape), separator_of(layout)
    if (
        len(escape.encode()) > 1
        or escape in "\r\n" + separator + quote_of(layout)
        or is_replaced(separator)
    ):
        raise ConfigError(
            f"format.escape is {escape!r}; give one ASCII character that is neither the quote nor "
            "the separator, which must be one character too, or '' for none."
        )
    return escape


def is_replaced(separator: str) -> bool:
    """Tells whether the stand-in replaces a separator for Arrow."""
    return len(separator.encode()) > 1


def split_line(line: str, layout: FormatConfig) -> tuple[list[str], bool]:
    """The values of a line, and whether a quote stays open.

    Python's csv module splits lines as Arrow does; a test holds that.
    """
    separator, quote, escape = separator_of(layout), quote_of(layout), escape_of(layout)
    if not quote and not (escape and escape in line):
        return line.split(separator), False
    if is_replaced(separator):
        line, separator = line.replace(separator, STAND_IN), STAND_IN
    try:
        rows = csv.reader(
            iter([_with_nulls_kept(line.encode(), layout).decode(), ""]),
            delimiter=separator,
            quotechar=quote or None,
            quoting=csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE,
            escapechar=escape or None,
            skipinitialspace=layout.skip_blank,
        )
        return next(rows), rows.line_num > 1
    except csv.Error:
        return [], True


def escapes_line_end(raw: bytes, layout: FormatConfig) -> bool:
    """Tells whether an escape stands before a line end, or at the end of the text."""
    escape = escape_of(layout).encode()
    if not escape or not (raw.endswith(escape) or escape + b"\n" in raw or escape + b"\r" in raw):
        return False
    return _escaped_line_end(escape).search(raw) is not None


def for_arrow(raw: bytes, layout: FormatConfig) -> bytes:
    """Lines in UTF-8, changed so that Arrow reads values that it would read otherwise.

    A value that is an escape and N stays that, as databases write a missing value so, and blanks
    before a quote are removed.
    """
    raw = _with_nulls_kept(raw, layout)
    quote, separator = quote_of(layout), separator_of(layout)
    if not layout.skip_blank or not quote or f" {quote}".encode() not in raw:
        return raw
    separator = STAND_IN if is_replaced(separator) else separator
    return b"".join(_without_blanks(line, layout, separator) for line in raw.splitlines(True))


def _without_blanks(line: bytes, layout: FormatConfig, separator: str) -> bytes:
    """A line without blanks before its quotes; one that is malformed stays."""
    quote, escape = quote_of(layout), escape_of(layout) or None
    if f" {quote}".encode() not in line:
        return line
    rows = csv.reader(
        iter([line.decode().rstrip("\r\n"), ""]),
        delimiter=separator,
        quotechar=quote,
        escapechar=escape,
        skipinitialspace=True,
    )
    values = next(rows)
    if rows.line_num > 1:
        return line
    out = io.StringIO()
    writer = csv.writer(
        out,
        delimiter=separator,
        quotechar=quote,
        escapechar=escape,
        quoting=csv.QUOTE_ALL,
        lineterminator="\n",
    )
    writer.writerow(values)
    return out.getvalue().encode()


def is_plain(raw: bytes, layout: FormatConfig) -> bool:
    """Tells whether all escapes of a text are those of missing values, which stay."""
    escape = escape_of(layout).encode()
    count = raw.count(escape) if escape else 0
    return not count or count == len(_null(escape, separator_of(layout).encode()).findall(raw))


def _with_nulls_kept(raw: bytes, layout: FormatConfig) -> bytes:
    escape = escape_of(layout).encode()
    if not escape or escape + b"N" not in raw:
        return raw
    null = _null(escape, separator_of(layout).encode())
    return null.sub(lambda found: escape + found[0], raw)


@lru_cache
def _null(escape: bytes, separator: bytes) -> re.Pattern[bytes]:
    """A value that is an escape and N, as MySQL and PostgreSQL write a missing one."""
    between = re.escape(separator)
    return re.compile(rb"(?m)(?:(?<=%s)|^)%sN(?=%s|\r?$)" % (between, re.escape(escape), between))


@lru_cache
def _escaped_line_end(escape: bytes) -> re.Pattern[bytes]:
    one = re.escape(escape)
    return re.compile(rb"(?<!%s)(?:%s%s)*%s(?:\r?\n|\r?\Z)" % (one, one, one, one))
