"""Scans the blocks of a shard: in C where a block is plain, in Arrow otherwise."""

# n rows of a block, C columns of the file

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from ctrdist.features.columns import ColumnConfig, bucket_name
from ctrdist.features.encode import LocalRows
from ctrdist.features.hashing import HASH_KEY, hash_values
from ctrdist.features.raw_values import UNITS, parse_times, positives, read_lists
from ctrdist.features.transforms import bucket_numbers
from ctrdist.features.typed_columns import read_typed_columns, read_values, short_lists
from ctrdist.native.scan import ScanColumn, TextLayout, has_scan, inspect_text, scan_text
from ctrdist.native.strings import Dictionary, new_dictionary
from preprocessing.config.rows import conditions
from preprocessing.config.settings import INPUT_FORMATS, PreprocessConfig
from preprocessing.sources.delimited import DelimitedBlock
from preprocessing.sources.dialect import is_plain, quote_of, separator_of
from preprocessing.sources.raw_block import Block, missing_texts
from preprocessing.sources.reader import RawBlock
from preprocessing.sources.side_tables import Matches, SideTable, attach
from preprocessing.sources.where import rows_that_meet
from preprocessing.split.assign import row_hash, row_hash_key

_MOST_BYTES = 2**31 - 1
_PARTITION_ROLES = ("categorical", "user", "numeric", "timestamp", "ignore")
"""Roles of columns whose value all rows of a block share; the others are read by Arrow."""
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
        self.conditions = conditions(config.where)
        self.left_out = 0
        """Rows that do not meet the conditions."""
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
        if not is_plain(raw, self.config.format):
            return None
        if found.carriage_return and raw.count(b"\r") != raw.count(b"\r\n"):
            return None
        try:
            if found.non_ascii:
                raw.decode()
        except UnicodeDecodeError:
            return None
        return self._scan(block, found.lines)

    def scan_table(self, block: Block) -> LocalRows:
        """The rows of a parsed block of any format.

        Raises:
            DataError: a value is not of its column's kind; the message names its row.
        """
        config = self.config
        block = self._rows_taken(block)
        typed = read_typed_columns(block.table, config, block.where)
        hashed = config.split.by == "hash"
        key = block.table.select(config.split_key) if hashed else None
        found = LocalRows(
            typed.label,
            typed.numbers,
            timestamp=typed.timestamp,
            user=typed.user,
            row_hash=None if key is None else row_hash(key, config.split.seed),
            weight=typed.weight,
            labels=typed.labels,
        )
        for column in config.counted:
            texts, dictionary = typed.texts[column.name], self.dictionaries[column.name]
            if column.role == "multi_valued":
                found.lists[column.name] = texts.offsets.to_numpy(), dictionary.add(texts.values)
            else:
                found.local_ids[column.name] = dictionary.add(texts)
        return found

    def _rows_taken(self, block: Block) -> Block:
        """The rows that meet the conditions, with the columns of the side tables."""
        table = attach(block.table, self.side_tables, self.matches)
        if not self.conditions:
            return Block(table, block.where)
        columns = [*self.config.columns, *(c for join in self.config.joins for c in join.columns)]
        keep = rows_that_meet(table, self.conditions, columns, block.where)
        self.left_out += int(np.count_nonzero(~keep))
        taken = np.flatnonzero(keep)
        return Block(table.filter(pa.array(keep)), lambda row: block.where(int(taken[row])))

    def _scan(self, block: DelimitedBlock, n: int) -> LocalRows | None:
        raw, names = block.raw, block.names
        hashed = self.config.split.by == "hash"
        layout = TextLayout(
            columns=len(names),
            separator=separator_of(self.config.format),
            skip_blank=self.config.format.skip_blank,
            hash_key=HASH_KEY,
            row_key=row_hash_key(self.config.split.seed),
            hashed=tuple(map(names.index, self.config.split_key)) if hashed else (),
        )
        scanned = LocalRows(np.empty(n, np.float32))
        if hashed:
            scanned.row_hash = np.empty(n, np.uint64)
        configs = {column.name: column for column in self.config.columns}
        texts: dict[str, tuple[np.ndarray, Dictionary]] = {}
        columns = []
        for name in names:
            known = configs.get(name)
            column = self._column(known, raw, n, scanned, texts) if known else ScanColumn()
            columns.append(replace(column, missing=missing_texts(self.config.format, known)))
        sizes = {name: len(values) for name, values in self.dictionaries.items()}
        plain = scan_text(raw, n, columns, layout, scanned.row_hash)
        partition = block.table.partition
        if not plain or not (
            self._add_partition(scanned, n, partition) and self._finish(scanned, texts)
        ):
            for name, size in sizes.items():
                self.dictionaries[name].truncate(size)
            return None
        return scanned

    def _column(
        self,
        config: ColumnConfig,
        raw: bytes,
        n: int,
        scanned: LocalRows,
        texts: dict[str, tuple[np.ndarray, Dictionary]],
    ) -> ScanColumn:
        """A column of `scanned`, for the C code to fill.

        Labels and times that are texts go to `texts`, as local ids: Python reads each text once.
        """
        name, dictionary = config.name, self.dictionaries.get(config.name)
        if _is_text(config):
            texts[name] = np.empty(n, np.int32), new_dictionary()
            return ScanColumn(kind="categorical", out=texts[name][0], dictionary=texts[name][1])
        match config.role:
            case "label":
                label = scanned.label
                if name != self.config.label.name:
                    label = scanned.labels[name] = np.empty(n, np.float32)
                return ScanColumn(kind="label", out=label, threshold=config.threshold)
            case "weight":
                scanned.weight = np.empty(n, np.float64)
                return ScanColumn(kind="number", out=scanned.weight)
            case "timestamp":
                scanned.timestamp = np.empty(n, np.int64)
                return ScanColumn(kind="timestamp", out=scanned.timestamp)
            case "numeric":
                numbers = scanned.numbers[name] = np.empty(n, np.float64)
                return ScanColumn(kind=config.type, out=numbers)
            case "multi_valued":
                ends: np.ndarray = np.empty(n + 1, np.int32)
                ids: np.ndarray = np.empty(raw.count(config.item_separator.encode()) + n, np.int32)
                scanned.lists[name] = ends, ids
                return ScanColumn(
                    kind="multi_valued",
                    out=ends,
                    dictionary=dictionary,
                    ids=ids,
                    separator=config.item_separator,
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

    def _add_lists(
        self, scanned: LocalRows, column: ColumnConfig, local_ids: np.ndarray, found: Dictionary
    ) -> bool:
        """Adds lists that are written as text; False for a text that is none."""
        lists, bad = read_lists(pa.array([*_texts(found), None], pa.string()), column)
        if bad.any():
            return False
        lists = short_lists(lists, column)
        ids = pa.array(self.dictionaries[column.name].add(lists.values))
        rows = pa.ListArray.from_arrays(lists.offsets, ids).take(pa.array(local_ids % len(lists)))
        scanned.lists[column.name] = rows.offsets.to_numpy(), rows.values.to_numpy()
        return True

    def _add_partition(
        self, scanned: LocalRows, n: int, partition: Mapping[str, str | None]
    ) -> bool:
        """Adds the columns whose value all rows share; False for a value that is bad."""
        for column in self.config.columns:
            name = column.name
            if name not in partition or column.role == "ignore":
                continue
            found, bad = read_values(pa.array([partition[name]], pa.string()), column)
            if bad.any():
                return False
            if column.role == "timestamp":
                scanned.timestamp = found.repeat(n)
            elif column.role == "numeric":
                scanned.numbers[name] = found.repeat(n)
            else:
                if column.role == "user":
                    scanned.user = hash_values(found).view(np.int64).repeat(n)
                texts = found.fill_null("") if column.missing == "token" else found
                scanned.local_ids[name] = self.dictionaries[name].add(texts).repeat(n)
        return True

    def _finish(self, scanned: LocalRows, texts: dict[str, tuple[np.ndarray, Dictionary]]) -> bool:
        """Reads labels and times, adds buckets of numbers, and trims lists; False for a bad one."""
        config = self.config
        if scanned.weight is not None and not (scanned.weight >= 0).all():
            return False
        for column in config.of_role("label"):
            if column.positive:
                local_ids, found = texts[column.name]
                label = np.array([*positives(_texts(found), column), 0], np.float32)[local_ids]
                if column == config.label:
                    scanned.label = label
                else:
                    scanned.labels[column.name] = label
        for column in config.of_role("timestamp"):
            if column.format and column.name in texts:
                local_ids, found = texts[column.name]
                times = [*parse_times(_texts(found), column.format), None]
                known = np.array([time is not None for time in times])
                if not known[local_ids].all():
                    return False
                scanned.timestamp = np.array([time or 0 for time in times], np.int64)[local_ids]
            elif column.source == "file" and UNITS[column.unit] > 1:
                assert scanned.timestamp is not None
                scanned.timestamp //= UNITS[column.unit]
        for column in config.of_role("multi_valued"):
            if column.name in texts and not self._add_lists(scanned, column, *texts[column.name]):
                return False
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
        return True


def _is_text(config: ColumnConfig) -> bool:
    """True for a label, a time or lists that are read from their text."""
    if config.role == "multi_valued":
        return config.text == "json"
    return bool(config.positive) if config.role == "label" else config.format is not None


def _texts(dictionary: Dictionary) -> list[str]:
    return dictionary.values().to_pylist()


def _plain(config: PreprocessConfig) -> bool:
    """True if the C code can read the layout and all columns."""
    layout = config.format
    if not INPUT_FORMATS[layout.type].separator or config.joins or config.where:
        return False
    partition = [c for c in config.columns if c.source == "partition"]
    in_key = config.split.by == "hash" and {c.name for c in partition} & {*config.split_key}
    if in_key or any(c.role not in _PARTITION_ROLES for c in partition):
        return False
    quote, separator = quote_of(layout), separator_of(layout)
    between = [c.item_separator for c in config.of_role("multi_valued")]
    return (
        layout.encoding.lower() in ("utf-8", "utf8", "ascii")
        and all(len(text) == 1 and text.isascii() for text in (separator, *between))
        and separator not in "\r\n\0"
        and (not quote or (len(quote) == 1 and quote.isascii()))
    )
