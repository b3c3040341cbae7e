"""Adds the columns of small tables, such as users and films, to the rows that have their keys."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ctrdist.errors import DataError
from ctrdist.features.hashing import one_array
from ctrdist.features.raw_values import read_texts
from preprocessing.config.rows import conditions
from preprocessing.config.settings import JoinConfig, PreprocessConfig
from preprocessing.sources.raw_block import TableConfig
from preprocessing.sources.reader import raw_blocks
from preprocessing.sources.shards import find_beside


@dataclass(frozen=True)
class SideTable:
    """A side table in memory."""

    key: str
    keys: pa.Array
    """Distinct, string."""
    columns: pa.Table
    """Row i belongs to keys[i]."""
    version: str = ""
    """Version of its file."""


@dataclass
class Matches:
    """Rows of the log whose key a side table has."""

    rows: int = 0
    of: int = 0
    """Rows of the log."""
    lacking: str | None = None
    """The key of the first row that it lacks."""

    def add(self, keys: pa.Array, found: pa.Array) -> None:
        """Counts (n,) keys of the log by their (n,) rows in the side table, null for none."""
        self.rows += len(found) - found.null_count
        self.of += len(found)
        if found.null_count and self.lacking is None:
            self.lacking = keys.filter(pc.is_null(found))[0].as_py() or ""

    def merge(self, other: "Matches") -> None:
        """Adds the counts of later rows."""
        self.rows += other.rows
        self.of += other.of
        self.lacking = other.lacking if self.lacking is None else self.lacking


def side_table_versions(config: PreprocessConfig) -> list[str]:
    """The versions of the files of all side tables; raises DataError for one that is missing."""
    return [find_beside(join.file, config).version for join in config.joins]


def load_side_tables(config: PreprocessConfig) -> list[SideTable]:
    """Reads all side tables.

    Raises:
        DataError: a table that is missing, badly formed, or has a key twice.
    """
    return [_load(join, config) for join in config.joins]


def _load(join: JoinConfig, config: PreprocessConfig) -> SideTable:
    file = find_beside(join.file, config)
    needed = {join.key, *(condition.column for condition in conditions(config.where))}
    wanted = [c.name for c in join.columns if c.role != "ignore" or c.name in needed]
    settings = TableConfig(join.format or config.format, join.columns, wanted)
    blocks = [raw.parse() for raw in raw_blocks(file, settings)]
    if not blocks:
        raise DataError(f"{file.name}: no rows; it is joined to the log. Give a file with rows.")
    table = pa.concat_tables(block.table for block in blocks).combine_chunks()
    keys = _key_texts(table, join.key)
    counts = pc.value_counts(keys)
    twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        row = int(np.flatnonzero(pc.equal(keys, twice[0]).to_numpy(zero_copy_only=False))[1])
        where = blocks[0].where(row) if len(blocks) == 1 else file.name
        raise DataError(
            f'{where}: {join.key} "{twice[0]}" occurs a second time; '
            "a joined table has each key once. Remove one of the two."
        )
    return SideTable(join.key, keys, table.drop_columns([join.key]), file.version)


def _key_texts(table: pa.Table, key: str) -> pa.Array:
    return read_texts(one_array(table.column(key)))[0]


def attach(
    table: pa.Table, side_tables: Sequence[SideTable], matches: Sequence[Matches]
) -> pa.Table:
    """The table with the side tables' columns; null where a side table lacks the key.

    `matches` counts the rows of each side table.
    """
    for side, counted in zip(side_tables, matches, strict=True):
        keys = _key_texts(table, side.key)
        found = pc.index_in(keys, value_set=side.keys)
        counted.add(keys, found)
        joined = side.columns.take(found)
        for name in joined.column_names:
            table = table.append_column(name, joined.column(name))
    return table
