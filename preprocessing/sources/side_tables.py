"""Adds the columns of small tables, such as users and films, to the rows that have their keys."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ctrdist.errors import DataError
from preprocessing.config.settings import JoinConfig, PreprocessConfig
from preprocessing.sources.reader import Block, read_file
from preprocessing.sources.shards import find_beside


@dataclass(frozen=True)
class Side:
    """A joined table in memory."""

    key: str
    keys: pa.Array
    """Distinct, string."""
    columns: pa.Table
    """Row i belongs to keys[i]."""


def load_sides(config: PreprocessConfig) -> list[Side]:
    """Reads all joined tables.

    Raises:
        DataError: a table that is missing, badly formed, or has a key twice.
    """
    return [_load(join, config) for join in config.joins]


def _load(join: JoinConfig, config: PreprocessConfig) -> Side:
    piece = find_beside(join.file, config)
    wanted = [c.name for c in join.columns if c.role != "ignore" or c.name == join.key]
    blocks = list(read_file(piece, join.format or config.format, join.columns, wanted))
    if not blocks:
        raise DataError(f"{piece.name}: no rows; it is joined to the log. Give a file with rows.")
    table = pa.concat_tables(block.table for block in blocks).combine_chunks()
    keys = table.column(join.key).cast(pa.string()).combine_chunks()
    counts = pc.value_counts(keys)
    twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        row = int(np.flatnonzero(pc.equal(keys, twice[0]).to_numpy(zero_copy_only=False))[1])
        place = blocks[0].where(row) if len(blocks) == 1 else piece.name
        raise DataError(
            f'{place}: {join.key} "{twice[0]}" occurs a second time; '
            "a joined table has each key once. Remove one of the two."
        )
    return Side(join.key, keys, table.drop_columns([join.key]))


def attach(block: Block, sides: list[Side]) -> Block:
    """The block with the columns of the joined tables; null where a key has no partner."""
    table = block.table
    for side in sides:
        keys = table.column(side.key).cast(pa.string())
        rows = pc.index_in(keys, value_set=side.keys)
        joined = side.columns.take(rows)
        for name in joined.column_names:
            table = table.append_column(name, joined.column(name))
    return Block(table, block.where, block.consumed)
