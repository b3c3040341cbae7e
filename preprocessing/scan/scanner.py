"""Scans the blocks of a shard: fast where all in a block is plain, else with all cases known."""

# n rows of a block, C columns of the file

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from ctrdist.features.columns import ColumnConfig, bucket_name
from ctrdist.features.encode import LocalRows
from ctrdist.features.hashing import HASH_KEY
from ctrdist.features.transforms import bucket_numbers
from ctrdist.features.typed_columns import UNITS, read_typed_columns
from ctrdist.native.build import load_native
from preprocessing.config.settings import FormatConfig, PreprocessConfig
from preprocessing.scan.dictionary import Dictionary, PlainDictionary, load_library, new_dictionary
from preprocessing.sources.delimited import quote_of, separator_of
from preprocessing.sources.reader import Block
from preprocessing.sources.side_tables import Side, attach
from preprocessing.sources.text_blocks import TextBlock
from preprocessing.split.assign import row_hash, row_hash_key

_SOURCE = Path(__file__).with_name("scan.c")
_KINDS = ("ignore", "label", "integer", "number", "timestamp", "categorical", "multi_valued")
"""In the order of scan.c's `enum kind`."""
_NUL, _HIGH, _RETURN, _QUOTE = 1, 2, 4, 8
_NO_QUOTE = 256
_MOST_BYTES = 2**31 - 1
_BOM = b"\xef\xbb\xbf"


class Scanner:
    """Columns of blocks, with dictionaries that all blocks of a shard share.

    Attributes:
        dictionaries: field of FeatureColumns.counted → its values.
    """

    def __init__(self, config: PreprocessConfig, sides: Sequence[Side] = ()) -> None:
        """Begins a shard.

        Args:
            config: the data set.
            sides: the joined tables.
        """
        self.config = config
        self.columns: list[str] = []
        self.sides = list(sides)
        self.dictionaries: dict[str, Dictionary | PlainDictionary] = {
            column.name: new_dictionary() for column in config.counted
        }
        self._layout: _Layout | None = None
        self._plain = _plain(config)

    def scan(self, block: TextBlock, names: Sequence[str]) -> LocalRows | None:
        """The rows of a block without its header, or None where anything in it is not plain.

        None leaves the dictionaries as they were; :meth:`scan_table` gives the same columns for the
        same rows, or tells what is wrong.

        Args:
            block: of a text.
            names: (C,) of the file's columns in its order.
        """
        if self._plain and list(names) != self.columns:
            self.columns = list(names)
            self._layout = _Layout.of(self.config, len(names))
        library, raw = _library(), block.raw
        if library is None or self._layout is None or not 0 < len(raw) <= _MOST_BYTES:
            return None
        quote = quote_of(self.config.format)
        lines = ctypes.c_int64()
        found = library.ctrdist_scan_inspect(
            raw, len(raw), ord(quote) if quote else _NO_QUOTE, ctypes.byref(lines)
        )
        if found & (_NUL | _QUOTE) or not raw.endswith(b"\n") or raw.startswith(_BOM):
            return None
        if found & _RETURN and raw.count(b"\r") != raw.count(b"\r\n"):
            return None
        if found & _HIGH and not _is_utf8(raw):
            return None
        return self._scan(library, raw, lines.value)

    def scan_table(self, block: Block) -> LocalRows:
        """The rows of a block of any format.

        Raises:
            DataError: a value is not of its column's kind; the message names its place.
        """
        config = self.config
        hashed = config.split.by == "hash"
        rows = row_hash(block.table, config.split.seed) if hashed else None
        typed = read_typed_columns(attach(block, self.sides).table, config, block.where)
        found = LocalRows(
            typed.label,
            typed.numbers,
            timestamp=typed.timestamp,
            user=typed.user,
            row_hash=rows,
        )
        for column in config.counted:
            texts, dictionary = typed.texts[column.name], self.dictionaries[column.name]
            if column.role == "multi_valued":
                found.lists[column.name] = texts.offsets.to_numpy(), dictionary.add(texts.values)
            else:
                found.local_ids[column.name] = dictionary.add(texts)
        return found

    def _scan(self, library: ctypes.CDLL, raw: bytes, n: int) -> LocalRows | None:
        assert self._layout is not None
        config, hashed = self.config, self.config.split.by == "hash"
        scanned = LocalRows(np.empty(n, np.float32))
        scanned.row_hash = np.empty(n, np.uint64) if hashed else None
        configs = {column.name: column for column in config.columns}
        columns = (_Column * len(self.columns))()
        for column, name in zip(columns, self.columns, strict=True):
            if name in configs:
                self._prepare(column, configs[name], raw, n, scanned)
        sizes = {name: len(words) for name, words in self.dictionaries.items()}
        self._layout.row_hash = _at(scanned.row_hash)
        failed = library.ctrdist_scan(raw, len(raw), n, columns, ctypes.byref(self._layout))
        if failed < 0:
            raise MemoryError("no memory for further values of a shard")
        if failed:
            for name, size in sizes.items():
                self.dictionaries[name].truncate(size)
            return None
        self._finish(scanned)
        return scanned

    def _prepare(
        self, column: _Column, config: ColumnConfig, raw: bytes, n: int, scanned: LocalRows
    ) -> None:
        """Tells the C code where a column goes."""
        kind = {"numeric": config.type, "user": "categorical"}.get(config.role, config.role)
        column.kind = _KINDS.index(kind)
        column.threshold = math.nan if config.threshold is None else config.threshold
        column.token = config.missing == "token"
        if config.name in self.dictionaries:
            column.words = self.dictionaries[config.name].handle
        if kind == "label":
            out = scanned.label
        elif kind == "timestamp":
            out = scanned.timestamp = np.empty(n, np.int64)
        elif config.role == "numeric":
            out = scanned.numbers[config.name] = np.empty(n, np.float64)
        elif kind == "categorical":
            out = scanned.local_ids[config.name] = np.empty(n, np.int32)
            if config.role == "user":
                scanned.user = np.empty(n, np.int64)
                column.user = _at(scanned.user)
        elif kind == "multi_valued":
            column.separator = ord(config.separator)
            column.most = config.max_length or 2**62
            out = np.empty(n + 1, np.int32)
            codes: np.ndarray = np.empty(raw.count(config.separator.encode()) + n, np.int32)
            scanned.lists[config.name] = out, codes
            column.codes = _at(codes)
        else:
            return
        column.out = _at(out)

    def _finish(self, scanned: LocalRows) -> None:
        """What is made of columns once they are numbers."""
        config = self.config
        for column in config.of_role("timestamp"):
            if UNITS[column.unit] > 1:
                scanned.timestamp //= UNITS[column.unit]
        for name, (ends, codes) in scanned.lists.items():
            scanned.lists[name] = ends, codes[: ends[-1]].copy()
        kept = {column.name for column in config.measured}
        for column in config.of_role("numeric"):
            values = scanned.numbers[column.name]
            bucket = bucket_name(column.name)
            if bucket in self.dictionaries:
                scanned.local_ids[bucket] = self.dictionaries[bucket].add_integers(
                    bucket_numbers(values), np.isnan(values)
                )
            if column.name not in kept:
                del scanned.numbers[column.name]


class _Column(ctypes.Structure):
    """scan.c's `column`."""

    _fields_ = (
        ("kind", ctypes.c_int64),
        ("words", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("codes", ctypes.c_void_p),
        ("user", ctypes.c_void_p),
        ("token", ctypes.c_int64),
        ("separator", ctypes.c_int64),
        ("most", ctypes.c_int64),
        ("threshold", ctypes.c_double),
    )


class _Text(ctypes.Structure):
    """scan.c's `text`."""

    _fields_ = (("at", ctypes.c_char_p), ("length", ctypes.c_int64))


class _Layout(ctypes.Structure):
    """scan.c's `layout`."""

    _fields_ = (
        ("look_up", ctypes.c_void_p),
        ("missing", ctypes.POINTER(_Text)),
        ("missing_count", ctypes.c_int64),
        ("user_key", ctypes.c_uint64 * 2),
        ("row_key", ctypes.c_uint64 * 2),
        ("row_hash", ctypes.c_void_p),
        ("separator", ctypes.c_int64),
        ("columns", ctypes.c_int64),
    )

    @classmethod
    def of(cls, config: PreprocessConfig, columns: int) -> _Layout | None:
        """Of a data set; None without a C compiler."""
        words = load_library()
        if words is None:
            return None
        missing = [text.encode() for text in config.format.missing]
        texts = (_Text * len(missing))(*[(text, len(text)) for text in missing])
        return cls(
            look_up=ctypes.cast(words.ctrdist_dictionary_look_up, ctypes.c_void_p),
            missing=ctypes.cast(texts, ctypes.POINTER(_Text)),
            missing_count=len(missing),
            user_key=_key(HASH_KEY),
            row_key=_key(row_hash_key(config.split.seed)),
            separator=ord(separator_of(config.format)),
            columns=columns,
        )


def _plain(config: PreprocessConfig) -> bool:
    """Whether the fast way knows the layout and all columns."""
    layout: FormatConfig = config.format
    if layout.type not in ("tsv", "csv") or config.joins:
        return False
    quote, separator = quote_of(layout), separator_of(layout)
    between = [c.separator for c in config.of_role("multi_valued")]
    return (
        layout.encoding.lower() in ("utf-8", "utf8", "ascii")
        and all(len(text) == 1 and text.isascii() for text in (separator, *between))
        and separator not in "\r\n\0"
        and (not quote or (len(quote) == 1 and quote.isascii()))
    )


def _key(text: str) -> ctypes.Array[ctypes.c_uint64]:
    """The two numbers that SipHash makes of a key of 16 characters."""
    return (ctypes.c_uint64 * 2)(*np.frombuffer(text.encode(), "<u8").tolist())


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


@cache
def _library() -> ctypes.CDLL | None:
    library = load_native(_SOURCE)
    if library is None:
        return None
    number = ctypes.c_int64
    library.ctrdist_scan_inspect.argtypes = (
        ctypes.c_char_p,
        number,
        ctypes.c_int32,
        ctypes.POINTER(number),
    )
    library.ctrdist_scan_inspect.restype = ctypes.c_int
    library.ctrdist_scan.argtypes = (
        ctypes.c_char_p,
        number,
        number,
        ctypes.c_void_p,
        ctypes.c_void_p,
    )
    library.ctrdist_scan.restype = ctypes.c_int
    return library


def _at(array: np.ndarray | None) -> int | None:
    return None if array is None else array.ctypes.data
