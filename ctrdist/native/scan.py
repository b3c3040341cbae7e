"""Delimited text parsed into columns in one pass.

The C code takes plain text only. preprocessing.scan.scanner reads all other text with Arrow, and
everything where there is no C compiler; the results are equal.
"""

# n rows of a text, C columns of the file

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np

from ctrdist.native.build import NativeLibrary, Pointer
from ctrdist.native.strings import Dictionary

Kind = Literal["ignore", "label", "integer", "number", "timestamp", "categorical", "multi_valued"]
"""In the order of scan.c's `enum kind`."""
_KINDS: tuple[str, ...] = get_args(Kind)
_NUL, _HIGH, _RETURN, _QUOTE = 1, 2, 4, 8
_NO_QUOTE = 256
_COLUMN = np.dtype("i8, u8, u8, u8, u8, i8, i8, i8, f8, u8, i8")
"""scan.c's `column`; its `layout` is 10 numbers of 8 bytes, each `text` an address and a length."""
_LIBRARY = NativeLibrary("scan")


class Contents(NamedTuple):
    """The number of lines of a text, and the special characters that it contains."""

    lines: int
    nul: bool
    non_ascii: bool
    carriage_return: bool
    quote: bool


@dataclass(kw_only=True)
class ScanColumn:
    """One column of a text of n rows, and the arrays that take its values."""

    kind: Kind = "ignore"
    out: np.ndarray | None = None
    """label: (n,) float32; integer, number: (n,) float64, NaN where missing; timestamp: (n,) int64;
    categorical: (n,) int32 local ids; multi_valued: (n + 1,) int32, where each row's ids begin."""
    dictionary: Dictionary | None = None
    """Takes the values of a categorical or multi-valued column."""
    ids: np.ndarray | None = None
    """Local ids of all rows of a multi-valued column, int32, long enough."""
    hashes: np.ndarray | None = None
    """(n,) int64 SipHashes of a categorical column, if wanted."""
    missing_is_empty: bool = False
    """A missing value of a categorical column is the empty string; otherwise its id is -1."""
    separator: str = "\0"
    """Character between the values of a multi-valued column."""
    max_length: int = 2**62
    """Values that are read of a row of a multi-valued column."""
    threshold: float | None = None
    """Labels from here on are 1; None: they are 0 or 1."""
    missing: Sequence[str] = ()
    """Texts that stand for no value."""


@dataclass(frozen=True, kw_only=True)
class TextLayout:
    """The layout that all blocks of a file share."""

    columns: int
    separator: str
    skip_blank: bool
    """Blanks before and after a value are no part of it."""
    hash_key: str
    """Key of :attr:`ScanColumn.hashes`, 16 characters."""
    row_key: str
    """Key of the rows' hashes, 16 characters."""
    hashed: tuple[int, ...] = ()
    """Indices of the columns of the rows' hashes, in the order in which they are combined."""


def has_scan() -> bool:
    """Tells whether :func:`inspect_text` and :func:`scan_text` work: they need a C compiler."""
    return _LIBRARY.load() is not None


def inspect_text(raw: bytes, quote: str | None) -> Contents:
    """Looks for what :func:`scan_text` cannot read, and counts lines."""
    lines: np.ndarray = np.empty(1, np.int64)
    code = ord(quote) if quote else _NO_QUOTE
    found = _LIBRARY["scan_inspect"](raw, len(raw), code, lines)
    return Contents(int(lines[0]), *(bool(found & x) for x in (_NUL, _HIGH, _RETURN, _QUOTE)))


def scan_text(
    raw: bytes,
    rows: int,
    columns: Sequence[ScanColumn],
    layout: TextLayout,
    row_hash: np.ndarray | None = None,
) -> bool:
    """Reads a text into its columns.

    Args:
        raw: at most 2 GiB of UTF-8 without NUL, quotes and a byte order mark; every line has its
            end, and carriage returns only precede line ends.
        rows: n, its lines.
        columns: (C,) all columns of the file.
        layout: of the file.
        row_hash: (n,) uint64, takes the hashes of the rows, if wanted.

    Returns:
        False where a value or line is not plain; dictionaries and arrays then hold some of it.

    Raises:
        MemoryError: no memory for further values of the dictionaries.
    """
    missing = [[text.encode() for text in column.missing] for column in columns]
    texts = [np.array([(_address(text), len(text)) for text in m], np.int64) for m in missing]
    pairs = zip(columns, texts, strict=True)
    c_columns = np.array([_c_column(column, found) for column, found in pairs], _COLUMN)
    hashed = np.array(layout.hashed, np.int64)
    c_layout = np.array(
        [
            *(word for key in (layout.hash_key, layout.row_key) for word in _words(key)),
            *(_address(row_hash), ord(layout.separator), layout.columns),
            layout.skip_blank,
            *(hashed.ctypes.data, len(hashed)),
        ],
        np.uint64,
    )
    failed = _LIBRARY["scan"](raw, len(raw), rows, c_columns, c_layout)
    if failed < 0:
        raise MemoryError("no memory for further values of a shard")
    return not failed


def _c_column(column: ScanColumn, missing: np.ndarray) -> tuple[float, ...]:
    """The fields of scan.c's `column`; `missing` has the addresses of its missing texts."""
    return (
        _KINDS.index(column.kind),
        0 if column.dictionary is None else column.dictionary.handle or 0,
        *map(_address, (column.out, column.ids, column.hashes)),
        column.missing_is_empty,
        ord(column.separator),
        column.max_length,
        math.nan if column.threshold is None else column.threshold,
        *(missing.ctypes.data, len(missing)),
    )


def _address(value: np.ndarray | bytes | None) -> int:
    """Address of an array or a text in memory; 0 for None."""
    given = ctypes.c_char_p(value) if isinstance(value, bytes) else Pointer.from_param(value)
    return ctypes.cast(given, ctypes.c_void_p).value or 0


def _words(key: str) -> list[int]:
    """The two numbers that SipHash makes of a key of 16 characters."""
    return np.frombuffer(key.encode(), "<u8").tolist()
