"""Takes the bad rows out of a block, and says what is wrong with each.

Only for blocks that were refused: looking at each line costs several times as much as reading a
block without errors.
"""

import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ctrdist.features.faults import Fault, python_value, wrong_value
from ctrdist.features.hashing import one_array
from ctrdist.features.typed_columns import read_values
from preprocessing.config.settings import PreprocessConfig
from preprocessing.sources.raw_block import Block
from preprocessing.sources.reader import RawBlock

TEXT_CHARACTERS = 10_000
"""Length to which the text of a bad row is cut."""


@dataclass(frozen=True)
class BadRow:
    """A row that was left out."""

    file: str
    line: int
    """Number of the line, or of the row in a file that is no text, from 1."""
    column: str | None
    """The column of the bad value; None for a malformed line."""
    text: str
    """The first 10,000 characters of the line; bytes that are no UTF-8 as \\xff."""
    reason: str

    def to_json(self) -> str:
        """One line, without a line end."""
        return json.dumps(vars(self), ensure_ascii=False)


def clean(raw: RawBlock, config: PreprocessConfig) -> tuple[Block, list[BadRow]]:
    """The good rows of a block, and the faults of the others, in the order of the log.

    Which rows are good does not depend on the other rows of the block.
    """
    table, rows, faults = raw.parse_good_rows()
    keep, wrong = _check_values(table, config)
    faults = sorted(
        [*faults, *((int(rows[row]), fault) for row, fault in wrong)], key=lambda found: found[0]
    )
    rows = rows[keep]
    good = Block(table.filter(pa.array(keep)), lambda row: raw.where(int(rows[row])))
    numbers = raw.numbers([row for row, _ in faults]) if faults else []
    bad = []
    for number, (row, fault) in zip(numbers, faults, strict=True):
        # A character takes four bytes at most, and a fault may lie in the middle of a huge line.
        content = raw.content(row)[: 4 * TEXT_CHARACTERS].removesuffix(b"\r")
        text = content.decode("utf-8", "backslashreplace")[:TEXT_CHARACTERS]
        bad.append(BadRow(raw.name, number, fault.column, text, fault.reason))
    return good, bad


def _check_values(
    table: pa.Table, config: PreprocessConfig
) -> tuple[np.ndarray, list[tuple[int, Fault]]]:
    """(n,) bool: the rows whose values are all of their columns' kinds; and the others' faults.

    A row has the fault of its first bad column. Refuses the values that read_typed_columns refuses.
    """
    keep = np.ones(table.num_rows, bool)
    faults: list[tuple[int, Fault]] = []
    for column in config.columns:
        if column.role == "ignore":
            continue
        values = one_array(table.column(column.name))
        bad = read_values(values, column)[1] & keep
        for row in np.flatnonzero(bad).tolist():
            faults.append((row, wrong_value(column, python_value(values[row]))))
        keep &= ~bad
    return keep, faults
