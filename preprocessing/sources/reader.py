"""Blocks of raw rows from text, JSON lines or Parquet, with one way to say where a row is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from ctrdist.features.columns import ColumnConfig
from preprocessing.config.settings import FormatConfig, PreprocessConfig
from preprocessing.sources.delimited import delimited_blocks, parse_text
from preprocessing.sources.jsonl import parse_json
from preprocessing.sources.parquet import parquet_tables
from preprocessing.sources.shards import Piece, Shard
from preprocessing.sources.text_blocks import BLOCK_BYTES, TextBlock, read_text


@dataclass
class Block:
    """Some rows of a shard."""

    table: pa.Table
    """Raw columns: text where the file is one, any type where it is Parquet. Missing values are
    null."""
    where: Callable[[int], str]
    """Names the place of a row of the block: file:line."""
    consumed: int
    """Bytes of the stored file that this block took."""


@dataclass(frozen=True)
class RowPlace:
    """Where the rows of a block of Parquet are."""

    name: str
    """Of the file."""
    first: int
    """Index in the file of the block's first row."""

    def __call__(self, row: int) -> str:
        """The place of a row of the block."""
        return f"{self.name}: row {self.first + row + 1}"


def read_text_blocks(
    shard: Shard, config: PreprocessConfig
) -> Iterator[tuple[TextBlock, list[str]]]:
    """Unparsed blocks of a text or of JSON lines, in order, without headers.

    Yields:
        The block, and the names of all columns of its file in their order; those of the config for
        JSON lines.

    Raises:
        DataError: files that cannot be read, or whose headers lack a column.
    """
    size = min(BLOCK_BYTES, config.shard_bytes)
    for piece in shard.pieces:
        yield from _texts(piece, config.format, config.columns, size)


def parse_block(block: TextBlock, names: Sequence[str], config: PreprocessConfig) -> Block:
    """The rows of a block from :func:`read_text_blocks`.

    Raises:
        DataError: rows that are not as the config says, with the place of the first.
    """
    return _parsed(block, names, config.format, config.columns, wanted_columns(config))


def read_blocks(shard: Shard, config: PreprocessConfig) -> Iterator[Block]:
    """The rows of a shard, in order.

    Raises:
        DataError: rows or files that are not as the config says, with their place.
    """
    for piece in shard.pieces:
        yield from read_file(piece, config.format, config.columns, wanted_columns(config))


def read_file(
    piece: Piece,
    layout: FormatConfig,
    columns: Sequence[ColumnConfig],
    wanted: Sequence[str] | None,
) -> Iterator[Block]:
    """The rows of a piece of any table: the wanted columns, or all of them for None."""
    if layout.type == "parquet":
        for table, first, stored in parquet_tables(piece, columns, wanted):
            yield Block(_with_nulls(table, layout.missing), RowPlace(piece.name, first), stored)
        return
    for block, names in _texts(piece, layout, columns):
        yield _parsed(block, names, layout, columns, wanted)


def wanted_columns(config: PreprocessConfig) -> list[str] | None:
    """The columns of the log that are to be read; None: all, for a hash of the whole row."""
    if config.split.by == "hash":
        return None
    keys = {join.key for join in config.joins}
    return [c.name for c in config.columns if c.role != "ignore" or c.name in keys]


def table_block(table: pa.Table, block: TextBlock, layout: FormatConfig) -> Block:
    """A parsed block of text as one of rows."""
    return Block(_with_nulls(table, layout.missing), block.line, block.consumed)


def _texts(
    piece: Piece,
    layout: FormatConfig,
    columns: Sequence[ColumnConfig],
    block_bytes: int | None = None,
) -> Iterator[tuple[TextBlock, list[str]]]:
    if layout.type == "jsonl":
        names = [c.name for c in columns]
        return ((block, names) for block in read_text(piece, block_bytes))
    return delimited_blocks(piece, layout, columns, block_bytes)


def _parsed(
    block: TextBlock,
    names: Sequence[str],
    layout: FormatConfig,
    columns: Sequence[ColumnConfig],
    wanted: Sequence[str] | None,
) -> Block:
    if layout.type == "jsonl":
        table = parse_json(block, layout, columns, names if wanted is None else wanted)
    else:
        table = parse_text(block, layout, names, names if wanted is None else wanted)
    return table_block(table, block, layout)


def _with_nulls(table: pa.Table, missing: Sequence[str]) -> pa.Table:
    """Texts that stand for no value become null."""
    texts = pa.array(missing, pa.string())
    for index, name in enumerate(table.column_names):
        column = table.column(index)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            column = column.cast(pa.string())
            column = pc.if_else(
                pc.is_in(column, value_set=texts), pa.scalar(None, pa.string()), column
            )
        table = table.set_column(index, name, column)
    return table
