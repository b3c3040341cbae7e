"""Blocks of raw rows from text or Parquet, with one way to say where a row is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ctrdist.errors import DataError
from preprocessing.config import ColumnConfig, FormatConfig, PreprocessConfig
from preprocessing.inputs import Shard
from preprocessing.text import (
    TextBlock,
    count_lines,
    drop_header,
    file_columns,
    parse_text,
    read_text,
)

PARQUET_ROWS = 65536
"""Rows of a block that is read from Parquet."""


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


def count_rows(shard: Shard, config: PreprocessConfig) -> Iterator[tuple[int, int]]:
    """(rows, bytes) of each block; reads no values."""
    if config.format.type == "parquet":
        with fsspec.open(shard.url, "rb") as file:
            yield _open_parquet(file, shard).metadata.num_rows, shard.end
        return
    for block in _body(shard, config.format):
        yield count_lines(block), block.consumed


def read_blocks(shard: Shard, config: PreprocessConfig) -> Iterator[Block]:
    """The rows of a shard, in order.

    Raises:
        DataError: rows or files that are not as the config says, with their place.
    """
    wanted = _wanted(config)
    yield from read_file(
        shard, config.format, config.columns, None if config.split.by == "hash" else wanted
    )


def read_file(
    shard: Shard,
    layout: FormatConfig,
    columns: Sequence[ColumnConfig],
    wanted: Sequence[str] | None,
) -> Iterator[Block]:
    """The rows of a shard of any table: the wanted columns, or all of them for None."""
    if layout.type == "parquet":
        blocks = _parquet_blocks(shard, columns, wanted)
    else:
        blocks = _text_blocks(shard, layout, columns, wanted)
    for block in blocks:
        yield Block(_with_nulls(block.table, layout.missing), block.where, block.consumed)


def _wanted(config: PreprocessConfig) -> list[str]:
    keys = {join.key for join in config.joins}
    return [c.name for c in config.columns if c.role != "ignore" or c.name in keys]


def _text_blocks(
    shard: Shard,
    layout: FormatConfig,
    columns: Sequence[ColumnConfig],
    wanted: Sequence[str] | None,
) -> Iterator[Block]:
    names = file_columns(shard, layout, columns)
    for block in _body(shard, layout):
        yield Block(
            parse_text(block, layout, names, names if wanted is None else wanted),
            block.line,
            block.consumed,
        )


def _body(shard: Shard, layout: FormatConfig) -> Iterator[TextBlock]:
    """Blocks without the header."""
    header = layout.header and shard.start == 0
    for block in read_text(shard):
        if header and count_lines(block):
            block, header = drop_header(block), False
        yield block


def _parquet_blocks(
    shard: Shard, columns: Sequence[ColumnConfig], wanted: Sequence[str] | None
) -> Iterator[Block]:
    with fsspec.open(shard.url, "rb") as file:
        parquet = _open_parquet(file, shard)
        there = parquet.schema_arrow.names
        lacking = [c.name for c in columns if c.name not in there]
        if lacking:
            raise DataError(
                f"{shard.name}: no column {', '.join(lacking)}; it has {', '.join(there)}. "
                "Correct `columns` in the data-set YAML."
            )
        first, total = 0, max(1, parquet.metadata.num_rows)
        for batch in parquet.iter_batches(
            batch_size=PARQUET_ROWS, columns=list(wanted or there), use_threads=False
        ):
            yield Block(
                pa.table(batch), _row_place(shard, first), shard.end * batch.num_rows // total
            )
            first += batch.num_rows


def _open_parquet(file: object, shard: Shard) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"{shard.name}: not a Parquet file ({error}). Correct `format.type`, or --input."
        ) from error


def _row_place(shard: Shard, first: int) -> Callable[[int], str]:
    return lambda row: f"{shard.name}: row {first + row + 1}"


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
