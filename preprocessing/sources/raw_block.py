"""Tables of raw rows, as files of any format hold them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from ctrdist.errors import DataError
from ctrdist.features.columns import ColumnConfig
from ctrdist.features.hashing import one_array
from ctrdist.features.raw_values import plain_array
from preprocessing.config.settings import FormatConfig

_SHOWN = 2000


@dataclass(frozen=True)
class TableConfig:
    """Layout and columns of the log, or of a side table."""

    layout: FormatConfig
    columns: Sequence[ColumnConfig]
    """The columns that a file must have."""
    wanted: Sequence[str] | None = None
    """Names of the columns to read; None: all that the file has."""
    partition: Mapping[str, str | None] = field(default_factory=dict)
    """Columns whose values the path of the file has, each with the value of all rows."""


@dataclass
class Block:
    """Some rows of the log."""

    table: pa.Table
    """Raw columns, null where a value is missing: text where the file is one, any type where it is
    Parquet."""
    where: Callable[[int], str]
    """Names the place of a row of the block in the log."""


def check_names(where: str, names: Sequence[str], needed: Sequence[str]) -> None:
    """Refuses a file with columns of these names that lacks a needed one, or has it twice.

    The message begins with `where`, such as "day_0.csv:1: the header has".
    """
    lacking = [name for name in needed if name not in names]
    if lacking:
        shown = ", ".join(names)
        shown = shown if len(shown) < _SHOWN else f"{', '.join(names[:5])[:_SHOWN]}, …"
        raise DataError(
            f"{where} no column {', '.join(lacking)}; it has {shown}. "
            "Correct `columns` or `format` in the data-set YAML."
        )
    twice = [name for name in needed if names.count(name) > 1]
    if twice:
        raise DataError(
            f"{where} column {', '.join(twice)} more than once. Rename one in the file."
        )


def missing_texts(layout: FormatConfig, column: ColumnConfig | None) -> list[str]:
    """The texts that stand for a missing value of a column; None for one without settings."""
    return [*layout.missing, *(column.missing_texts if column else ())]


def with_nulls(table: pa.Table, config: TableConfig) -> pa.Table:
    """The table in plain types, with null for texts that stand for a missing value.

    The columns of the partition are added.
    """
    settings = {column.name: column for column in config.columns}
    for index, name in enumerate(table.column_names):
        column = plain_array(one_array(table.column(index)))
        if pa.types.is_string(column.type):
            texts = pa.array(missing_texts(config.layout, settings.get(name)), pa.string())
            missing = pc.is_in(column, value_set=texts)
            column = pc.if_else(missing, pa.scalar(None, pa.string()), column)
        table = table.set_column(index, name, column)
    for name, value in config.partition.items():
        table = table.append_column(name, pa.repeat(pa.scalar(value, pa.string()), len(table)))
    return table
