"""Reads the blocks of an input split, of any format."""

from collections.abc import Iterator
from importlib import import_module
from typing import TypeAlias

from preprocessing.config.settings import INPUT_FORMATS, PreprocessConfig
from preprocessing.sources.parquet import ParquetBlock
from preprocessing.sources.raw_block import Block, TableConfig
from preprocessing.sources.shards import ByteRange, InputSplit
from preprocessing.sources.text_blocks import BLOCK_BYTES, LinesOfFormat

RawBlock: TypeAlias = LinesOfFormat | ParquetBlock
"""Some rows of a file before they are parsed."""


def read_raw_blocks(split: InputSplit, config: PreprocessConfig) -> Iterator[RawBlock]:
    """Blocks that are not parsed yet, in the order of the log.

    Raises:
        DataError: files that cannot be read, or that lack a column.
    """
    table = TableConfig(config.format, config.columns, _wanted_columns(config))
    for byte_range in split.ranges:
        yield from raw_blocks(byte_range, table, min(BLOCK_BYTES, config.shard_bytes))


def read_blocks(split: InputSplit, config: PreprocessConfig) -> Iterator[Block]:
    """The parsed blocks; raises DataError for rows or files that are not as the config says."""
    return (raw.parse() for raw in read_raw_blocks(split, config))


def raw_blocks(
    byte_range: ByteRange, table: TableConfig, block_bytes: int = BLOCK_BYTES
) -> Iterator[RawBlock]:
    """The blocks of a byte range; those of a text have about `block_bytes`."""
    module = import_module(f"preprocessing.sources.{INPUT_FORMATS[table.layout.type].module}")
    blocks: Iterator[RawBlock] = module.raw_blocks(byte_range, table, block_bytes)
    return blocks


def _wanted_columns(config: PreprocessConfig) -> list[str] | None:
    """The columns of the log that are to be read; None: all, for a hash of the whole row."""
    if config.split.by == "hash":
        return None
    keys = {join.key for join in config.joins}
    return [c.name for c in config.columns if c.role != "ignore" or c.name in keys]
