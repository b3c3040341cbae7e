"""Takes the bad rows out of a block, and tells what is wrong with each.

Only for blocks that were refused: it looks at each line, which costs several times what reading a
block without errors does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ctrdist.errors import DataError
from ctrdist.features.typed_columns import typed_values
from preprocessing.config.settings import PreprocessConfig
from preprocessing.sources.delimited import LineCheck, parse_lines
from preprocessing.sources.jsonl import read_json_lines
from preprocessing.sources.reader import Block, RowPlace, table_block, wanted_columns
from preprocessing.sources.row_errors import Fault, wrong_value_fault
from preprocessing.sources.text_blocks import TextBlock, without_blank_lines

TEXT_CHARACTERS = 10_000
"""So much of a bad row is kept."""


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """A row that was left out."""

    file: str
    line: int
    """Of a text; of a Parquet file the row. From 1."""
    column: str | None
    """Whose value is bad, where it is one column's."""
    text: str
    """Of the line, its first 10,000 characters; bytes that are no UTF-8 as \\xff."""
    reason: str

    def to_json(self) -> str:
        """One line, without a line end."""
        return json.dumps(vars(self), ensure_ascii=False)


def clean(
    block: TextBlock | Block, names: Sequence[str], config: PreprocessConfig
) -> tuple[Block, list[BadRow]]:
    """The good rows of a block, and what is wrong with the others, in the order of the log.

    Which rows are good does not depend on what else is in the block.

    Args:
        block: from `read_text_blocks`; for Parquet, from `read_blocks`.
        names: all columns of the file, in its order; not used for Parquet.
        config: the data set.

    Raises:
        DataError: a whole column is of a type that it cannot have.
    """
    if isinstance(block, Block):
        return _clean_table(block, config)
    layout = config.format
    wanted = wanted_columns(config)
    wanted = list(names) if wanted is None else wanted
    lines = without_blank_lines(block.raw).split(b"\n")[:-1]
    if layout.type == "jsonl":
        table, rows, faults = read_json_lines(lines, layout, config.columns, wanted)
    else:
        check = LineCheck(layout, names)
        found = [(row, check(line)) for row, line in enumerate(lines)]
        faults = [(row, fault) for row, fault in found if fault]
        good = [row for row, fault in found if not fault]
        parsed = parse_lines(b"".join(lines[row] + b"\n" for row in good), layout, names, wanted)
        if parsed is None:
            raise DataError(
                f"{block.line(0)} and following: not readable as {layout.type}. Fix the rows."
            )
        table, rows = parsed, np.asarray(good, np.int64)
    clean_block = table_block(table, block, layout)
    keep, wrong = _check_values(clean_block.table, config)
    faults += [(int(rows[row]), fault) for row, fault in wrong]
    faults.sort(key=lambda found: found[0])
    rows = rows[keep]
    clean_block.table = clean_block.table.filter(pa.array(keep))
    clean_block.where = lambda row: block.line(int(rows[row]))
    numbers = block.numbers([row for row, _ in faults]) if faults else []
    return clean_block, [
        _bad(block.piece.name, number, fault, lines[row])
        for number, (row, fault) in zip(numbers, faults, strict=True)
    ]


def _clean_table(block: Block, config: PreprocessConfig) -> tuple[Block, list[BadRow]]:
    place = block.where
    assert isinstance(place, RowPlace)
    keep, wrong = _check_values(block.table, config)
    rows = np.flatnonzero(keep)
    good = Block(
        block.table.filter(pa.array(keep)), lambda row: place(int(rows[row])), block.consumed
    )
    taken = block.table.take([row for row, _ in wrong]).to_pylist()
    return good, [
        _bad(place.name, place.first + row + 1, fault, json.dumps(values, default=str).encode())
        for (row, fault), values in zip(wrong, taken, strict=True)
    ]


def _bad(file: str, line: int, fault: Fault, raw: bytes) -> BadRow:
    # A character takes four bytes at most, and a fault may lie in the middle of a huge line.
    text = raw[: 4 * TEXT_CHARACTERS].removesuffix(b"\r").decode("utf-8", "backslashreplace")
    return BadRow(
        file=file,
        line=line,
        column=fault.column,
        text=text[:TEXT_CHARACTERS],
        reason=fault.reason,
    )


def _check_values(
    table: pa.Table, config: PreprocessConfig
) -> tuple[np.ndarray, list[tuple[int, Fault]]]:
    """(n,) whether a row's values are all of their columns' kinds, and the others' first faults.

    It refuses what `read_typed_columns` refuses.
    """
    keep = np.ones(table.num_rows, bool)
    faults: list[tuple[int, Fault]] = []
    for column in config.columns:
        if column.role not in ("label", "numeric", "timestamp"):
            continue
        values = table.column(column.name).combine_chunks()
        bad = typed_values(values, column)[1] & keep
        for row in np.flatnonzero(bad):
            value: Any = values[int(row)].as_py()
            given = None if value is None else str(value)
            faults.append((int(row), wrong_value_fault(column, given)))
        keep &= ~bad
    return keep, sorted(faults, key=lambda found: found[0])
