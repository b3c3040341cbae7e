"""Reads the blocks of an input split, of any format."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import TypeAlias

from ctrdist.errors import ConfigError
from preprocessing.config.patterns import WILD, match_columns
from preprocessing.config.rows import conditions
from preprocessing.config.settings import INPUT_FORMATS, FormatConfig, PreprocessConfig
from preprocessing.sources.columnar import ColumnarBlock
from preprocessing.sources.raw_block import Block, TableConfig
from preprocessing.sources.shards import ByteRange, InputSplit, find_beside, partition_values
from preprocessing.sources.text_blocks import BLOCK_BYTES, LinesOfFormat

RawBlock: TypeAlias = LinesOfFormat | ColumnarBlock
"""Some rows of a file before they are parsed."""


def read_raw_blocks(split: InputSplit, config: PreprocessConfig) -> Iterator[RawBlock]:
    """Blocks that are not parsed yet, in the order of the log.

    Raises:
        DataError: files that cannot be read, or that lack a column.
    """
    columns = [column for column in config.columns if column.source == "file"]
    wanted = _wanted_columns(config)
    for byte_range in split.ranges:
        partition = partition_values(byte_range, config)
        table = TableConfig(config.format, columns, wanted, partition)
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


def with_matched_columns(
    config: PreprocessConfig, inputs: Sequence[InputSplit]
) -> PreprocessConfig:
    """The config with one column for each that a pattern with `*` matches.

    The names are those of the log's first file, and of each side table.

    Raises:
        ConfigError: a pattern matches nothing, or the files name no columns.
        DataError: a file cannot be read.
    """
    files = [file for one in inputs for file in one.ranges]

    def first_names() -> list[str]:
        found = (_column_names(file, config.format) for file in files)
        return next(filter(None, found), [])  # an empty part has none

    columns = match_columns(config.columns, first_names, files[0].name)
    joins = []
    for join in config.joins:
        layout = join.format or config.format
        names = partial(_names_beside, join.file, layout, config)
        joins.append(replace(join, columns=match_columns(join.columns, names, join.file)))
    return replace(config, columns=columns, joins=joins)


def _names_beside(file: str, layout: FormatConfig, config: PreprocessConfig) -> list[str]:
    return _column_names(find_beside(file, config), layout)


def _column_names(file: ByteRange, layout: FormatConfig) -> list[str]:
    """The names of a file's columns, in its order."""
    kind = INPUT_FORMATS[layout.type]
    if kind.is_text and (not layout.header or layout.type == "jsonl"):
        raise ConfigError(
            f"columns: a name with {WILD} is for Parquet, ORC and text with `format.header: true`; "
            f"{file.name} is {layout.type} that does not begin with names. Write the names, or a "
            "range such as C1..C26."
        )
    module = import_module(f"preprocessing.sources.{kind.module}")
    names: list[str] = module.column_names(file, layout)
    return names


def _wanted_columns(config: PreprocessConfig) -> list[str]:
    """The columns of the log that are to be read."""
    needed = {join.key for join in config.joins}
    needed.update(condition.column for condition in conditions(config.where))
    if config.split.by == "hash":
        needed.update(config.split_key)
    files = [column for column in config.columns if column.source == "file"]
    return [c.name for c in files if c.role != "ignore" or c.name in needed]
