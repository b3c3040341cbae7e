"""Scans the blocks of a shard: in C where a block is plain, in Arrow otherwise."""

# n rows of a block, C columns of the file

from collections.abc import Sequence

import numpy as np

from ctrdist.features.columns import ColumnConfig, bucket_name
from ctrdist.features.encode import LocalRows
from ctrdist.features.hashing import HASH_KEY
from ctrdist.features.transforms import bucket_numbers
from ctrdist.features.typed_columns import UNITS, read_typed_columns
from ctrdist.native.scan import ScanColumn, TextLayout, has_scan, inspect_text, scan_text
from ctrdist.native.strings import Dictionary, new_dictionary
from preprocessing.config.settings import INPUT_FORMATS, PreprocessConfig
from preprocessing.sources.delimited import DelimitedBlock, quote_of, separator_of
from preprocessing.sources.raw_block import Block
from preprocessing.sources.reader import RawBlock
from preprocessing.sources.side_tables import Matches, SideTable, attach
from preprocessing.split.assign import row_hash, row_hash_key

_MOST_BYTES = 2**31 - 1
_BOM = b"\xef\xbb\xbf"


class Scanner:
    """Turns blocks into rows with local ids; all blocks of a shard share its dictionaries."""

    def __init__(self, config: PreprocessConfig, side_tables: Sequence[SideTable] = ()) -> None:
        """Begins a shard."""
        self.config = config
        self.side_tables = side_tables
        self.dictionaries: dict[str, Dictionary] = {
            column.name: new_dictionary() for column in config.counted
        }
        """Field of FeatureColumns.counted → its values."""
        self.matches = [Matches() for _ in side_tables]
        """Rows that each side table has been joined to."""
        self._plain = _plain(config) and has_scan()

    def scan(self, block: RawBlock) -> LocalRows | None:
        """The rows of a block, or None where the block is not plain.

        None leaves the dictionaries as they were; :meth:`scan_table` gives the same columns for the
        same rows, or names the fault.
        """
        if not self._plain or not isinstance(block, DelimitedBlock):
            return None
        raw = block.raw
        if not 0 < len(raw) <= _MOST_BYTES:
            return None
        found = inspect_text(raw, quote_of(self.config.format))
        if found.nul or found.quote or not raw.endswith(b"\n") or raw.startswith(_BOM):
            return None
        if found.carriage_return and raw.count(b"\r") != raw.count(b"\r\n"):
            return None
        try:
            if found.non_ascii:
                raw.decode()
        except UnicodeDecodeError:
            return None
        return self._scan(raw, found.lines, block.names)

    def scan_table(self, block: Block) -> LocalRows:
        """The rows of a parsed block of any format.

        Raises:
            DataError: a value is not of its column's kind; the message names its row.
        """
        config = self.config
        hashed = config.split.by == "hash"
        rows = row_hash(block.table, config.split.seed) if hashed else None
        table = attach(block.table, self.side_tables, self.matches)
        typed = read_typed_columns(table, config, block.where)
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

    def _scan(self, raw: bytes, n: int, names: list[str]) -> LocalRows | None:
        layout = TextLayout(
            columns=len(names),
            separator=separator_of(self.config.format),
            missing=tuple(self.config.format.missing),
            hash_key=HASH_KEY,
            row_key=row_hash_key(self.config.split.seed),
        )
        scanned = LocalRows(np.empty(n, np.float32))
        if self.config.split.by == "hash":
            scanned.row_hash = np.empty(n, np.uint64)
        configs = {column.name: column for column in self.config.columns}
        columns = [
            self._column(configs[name], raw, n, scanned) if name in configs else ScanColumn()
            for name in names
        ]
        sizes = {name: len(values) for name, values in self.dictionaries.items()}
        if not scan_text(raw, n, columns, layout, scanned.row_hash):
            for name, size in sizes.items():
                self.dictionaries[name].truncate(size)
            return None
        self._finish(scanned)
        return scanned

    def _column(self, config: ColumnConfig, raw: bytes, n: int, scanned: LocalRows) -> ScanColumn:
        """A column of `scanned`, for the C code to fill."""
        name, dictionary = config.name, self.dictionaries.get(config.name)
        match config.role:
            case "label":
                return ScanColumn(kind="label", out=scanned.label, threshold=config.threshold)
            case "timestamp":
                scanned.timestamp = np.empty(n, np.int64)
                return ScanColumn(kind="timestamp", out=scanned.timestamp)
            case "numeric":
                numbers = scanned.numbers[name] = np.empty(n, np.float64)
                return ScanColumn(kind=config.type, out=numbers)
            case "multi_valued":
                ends: np.ndarray = np.empty(n + 1, np.int32)
                ids: np.ndarray = np.empty(raw.count(config.separator.encode()) + n, np.int32)
                scanned.lists[name] = ends, ids
                return ScanColumn(
                    kind="multi_valued",
                    out=ends,
                    dictionary=dictionary,
                    ids=ids,
                    separator=config.separator,
                    max_length=config.max_length or 2**62,
                )
            case "categorical" | "user":
                if config.role == "user":
                    scanned.user = np.empty(n, np.int64)
                local_ids = scanned.local_ids[name] = np.empty(n, np.int32)
                return ScanColumn(
                    kind="categorical",
                    out=local_ids,
                    dictionary=dictionary,
                    hashes=scanned.user if config.role == "user" else None,
                    missing_is_empty=config.missing == "token",
                )
        return ScanColumn()

    def _finish(self, scanned: LocalRows) -> None:
        """Divides timestamps, adds buckets of numbers, and trims lists."""
        config = self.config
        for column in config.of_role("timestamp"):
            assert scanned.timestamp is not None
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


def _plain(config: PreprocessConfig) -> bool:
    """True if the C code can read the layout and all columns."""
    layout = config.format
    if not INPUT_FORMATS[layout.type].separator or config.joins:
        return False
    quote, separator = quote_of(layout), separator_of(layout)
    between = [c.separator for c in config.of_role("multi_valued")]
    return (
        layout.encoding.lower() in ("utf-8", "utf8", "ascii")
        and all(len(text) == 1 and text.isascii() for text in (separator, *between))
        and separator not in "\r\n\0"
        and (not quote or (len(quote) == 1 and quote.isascii()))
    )
