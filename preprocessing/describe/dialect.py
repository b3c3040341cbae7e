"""Guesses how a text separates its columns: encoding, separator, quote and header."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ctrdist.errors import DataError
from preprocessing.config.settings import FormatConfig
from preprocessing.describe.names import is_known
from preprocessing.sources.dialect import split_line

SEPARATORS = ("\t", "\x01", "::", ",", ";", "|", "^", "~", " ", ":")
_CERTAIN = SEPARATORS[:3]
"""They occur in texts for no other reason, so they go before the others."""
_WEAK = SEPARATORS[-4:]
"""They often occur within values, so they come last."""
_MOST_LINES = 1000
_CONSISTENT = 0.98
_LEAST = 0.8
NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
_TIME = re.compile(r"\d{2,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T].*)?")


@dataclass(frozen=True)
class Dialect:
    """The layout of a text with separators."""

    layout: FormatConfig
    columns: int
    consistent: float
    """Share of the lines that have as many columns as most of their file."""
    explained: float
    """The same, with lines that are halves of a row whose quoted value has a line end."""
    open_quotes: int
    """Lines with a quote that stays open."""


def encoding_of(lines: Sequence[bytes]) -> tuple[str, str]:
    """The encoding of some lines, and a doubt about it, which is empty for UTF-8."""
    wrong = [line for line in lines if not _is(line, "utf-8")]
    if not wrong:
        return "utf-8", ""
    if len(wrong) < 0.01 * sum(not line.isascii() for line in lines):
        return "utf-8", f"{len(wrong):,} sampled lines are not UTF-8"
    text = b"\n".join(wrong)
    byte = next(b for b in text if b > 127)
    doubt = f"byte 0x{byte:02X} is not UTF-8; single-byte encodings cannot be told apart"
    if _is(text, "gb2312"):
        return "gb18030", f"byte 0x{byte:02X} is not UTF-8; pairs of such bytes, as in Chinese"
    if any(0x80 <= b < 0xA0 for b in text) and _is(text, "cp1252"):
        return "cp1252", doubt
    return "latin-1", doubt


def dialect_of(groups: Sequence[Sequence[str]], name: str) -> Dialect:
    """The separator and quote under which the lines of each file have the same number of columns.

    Args:
        groups: lines of each file; the first line of the first file comes first.
        name: name of the first file, for the message.

    Raises:
        DataError: there is none.
    """
    most = max(10, _MOST_LINES // len(groups))
    groups = [_some(lines, most) for lines in groups]
    lines = [line for group in groups for line in group]
    candidates = [_try(groups, layout) for layout in _layouts(lines)]
    good = [c for c in candidates if c.columns > 1 and c.consistent >= _LEAST]
    if not good:
        raise DataError(
            f"{name}: no separator gives the lines the same number of columns; the first is "
            f"{lines[0][:200]!r}. Give a log of delimited text, JSON lines or Parquet."
        )
    best = max(good, key=lambda c: _rank(c, lines))
    return replace(best, layout=_written(best.layout, lines))


def header_of(first: Sequence[str], body: Sequence[Sequence[str]]) -> tuple[bool, str]:
    """Tells whether the first line of a file names the columns, and the reason.

    Args:
        first: its values.
        body: (n, C) values of other lines.
    """
    if len(first) > 3 and [*first] == [str(i) for i in range(len(first))]:
        return True, "it numbers the columns from 0"
    names = [name for name in first if name]
    numbers = [name for name in names if NUMBER.fullmatch(name)]
    if numbers:
        return False, f"the first line has numbers, such as {numbers[0]!r}"
    if not names:
        return False, "the first line is empty"
    columns = [*zip(*body, strict=True)] or [()] * len(first)
    for name, column in zip(first, columns, strict=True):
        values = [value for value in column if value]
        typed = sum(bool(NUMBER.fullmatch(v) or _TIME.fullmatch(v)) for v in values)
        if name and values and typed > 0.9 * len(values):
            return True, f"{name!r} stands above numbers"
    known = [name for name in names if is_known(name)]
    if len(known) >= len(names) / 3:
        return True, f"{known[0]!r} is the name of a column"
    if len(set(names)) < len(names):
        return False, "a value occurs twice in the first line"
    new = all(name not in column for name, column in zip(first, columns, strict=True))
    repeats = any(len(set(column)) < len(column) / 2 for column in columns)
    is_words = all(re.fullmatch(r"[^\W\d][\w .-]{0,60}", name) for name in names)
    if new and repeats and is_words:
        return True, "its words occur nowhere below"
    return False, "the first line is like the others"


def _is(text: bytes, encoding: str) -> bool:
    try:
        text.decode(encoding)
    except UnicodeError:
        return False
    return True


def _some(lines: Sequence[str], most: int) -> list[str]:
    """Lines of the beginning, the middle and the end, with those that follow them."""
    if len(lines) <= most:
        return [*lines]
    third = most // 3
    starts = (0, (len(lines) - third) // 2, len(lines) - third)
    return [line for start in starts for line in lines[start : start + third]]


def _layouts(lines: Sequence[str]) -> list[FormatConfig]:
    """The layouts that are tried."""
    quotes = ['"', ""] if any('"' in line for line in lines) else [""]
    found = []
    for separator in SEPARATORS:
        if sum(separator in line for line in lines) < _LEAST * len(lines):
            continue
        all_lines = "\n".join(lines)
        blanks = all_lines.count(f"{separator} ") > 0.8 * all_lines.count(separator)
        layout = FormatConfig(
            type="csv", separator=separator, skip_blank=blanks and separator != " "
        )
        found += [replace(layout, quote=quote) for quote in quotes]
        for quote in quotes:
            escaped = "\\" + (quote or separator)
            if len(separator) == 1 and any(escaped in line for line in lines):
                found.append(replace(layout, quote=quote, escape="\\"))
    return found


def _try(groups: Sequence[Sequence[str]], layout: FormatConfig) -> Dialect:
    quote = layout.quote
    most, hits, opened, odd = [], 0, 0, 0
    for lines in groups:
        counts: Counter[int] = Counter()
        for line in lines:
            fields, is_open = split_line(line, layout)
            opened += is_open
            odd += line.count(quote) % 2 if quote else 0
            counts[0 if is_open else len(fields)] += 1
        columns, count = max(counts.items(), key=lambda item: (item[1], item[0]))
        most.append(columns)
        hits += count
    # A quoted line end leaves two lines with one quote each, of which the first stays open.
    torn = 2 * opened if opened and abs(odd - 2 * opened) <= 0.2 * odd else 0
    total = sum(map(len, groups))
    return Dialect(layout, most[0], hits / total, min(1.0, (hits + torn) / total), opened)


def _rank(found: Dialect, lines: Sequence[str]) -> tuple[bool | int | float, ...]:
    separator, quote = found.layout.separator, found.layout.quote
    first = len(split_line(lines[0], found.layout)[0]) == found.columns
    is_quoted = any(
        re.search(f'(^|{re.escape(separator or "")})"', line) for line in lines if '"' in line
    )
    return (
        found.explained >= _CONSISTENT,
        separator in _CERTAIN,
        separator not in _WEAK,
        first,
        bool(found.layout.escape),  # tried only where it is followed by what it escapes
        bool(quote) == is_quoted,
        _typed(lines[:50], found.layout),
        found.columns,
        found.explained,
    )


def _typed(lines: Sequence[str], layout: FormatConfig) -> float:
    """The share of values that are numbers, with a comma too, or times; in tenths."""
    values = [value for line in lines for value in split_line(line, layout)[0]]
    typed = sum(
        bool(NUMBER.fullmatch(value.replace(",", ".", 1)) or _TIME.fullmatch(value))
        for value in values
    )
    return round(typed / max(1, len(values)), 1)


def _written(layout: FormatConfig, lines: Sequence[str]) -> FormatConfig:
    """The layout as a YAML has it, without what its type implies."""
    separator, quote = layout.separator, layout.quote
    if separator == "\t":
        return replace(layout, type="tsv", separator=None, quote=quote or None)
    used = any('"' in line for line in lines)
    return replace(
        layout,
        separator=None if separator == "," else separator,
        quote="" if (used and not quote) or separator in _CERTAIN else None,
    )
