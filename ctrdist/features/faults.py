"""Messages for lines and values that are refused."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from ctrdist.errors import DataError
from ctrdist.features.columns import ColumnConfig

_SHOWN = 200
_MISSING_WORDS = {"null", "none", "nil", "na", "n/a", "#n/a", "nan", "nat", "\\n", "-", "?"}
"""Texts that often stand for a missing value, in small letters."""
_UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}


@dataclass(frozen=True)
class Fault:
    """The reason why a line or a value is refused."""

    reason: str
    """For example: 39 columns, expected 40 (label, …), separated by tab."""
    remedy: str
    column: str | None = None
    """The column of the value; None for a whole line."""

    def error(self, where: str) -> DataError:
        """The error that ends a run."""
        return DataError(f"{where}: {self.reason}. {self.remedy}")


def wrong_value(column: ColumnConfig, value: object) -> Fault:
    """The fault of a value that is not of its column's kind; None is a missing one."""
    shown = "nothing" if value is None else f'"{str(value)[:_SHOWN]}"'
    reason = f"column {column.name} wants {_wanted(column)}, got {shown}"
    return Fault(reason, _remedy(column, value), column.name)


def python_value(scalar: pa.Scalar) -> object:
    """The value for a message; its text where Python cannot hold it, as a time after 9999."""
    try:
        return scalar.as_py()
    except (ValueError, OverflowError):
        return scalar.cast(pa.string()).as_py()


def _wanted(column: ColumnConfig) -> str:
    match column.role:
        case "label":
            return "0 or 1" if column.threshold is None else "a finite number"
        case "weight":
            return "a number from 0 to 3.4e38"
        case "numeric":
            return "an integer" if column.type == "integer" else "a finite number"
        case "timestamp" if column.format is not None:
            return f"a time of the format {column.format}"
        case "timestamp":
            return f"a number ({_UNITS[column.unit]})"
        case "multi_valued" if column.text == "json":
            return 'a list such as [1, 2] or ["a", "b"]'
    return "one value"


def _remedy(column: ColumnConfig, value: object) -> str:
    text = "" if value is None else str(value)
    if column.role == "label":
        if value is None:
            return (
                "Fix the row, or leave rows without a label out (bad_rows: {policy: quarantine}), "
                "or name the label's `positive` values: all others, no value too, are then 0."
            )
        if column.threshold is None and _is_number(text):
            return (
                "Fix the row, or set `threshold` for the label (it is 1 from there on), or name "
                "its `positive` values (all others are then 0)."
            )
        return "Fix the row, or name the label's `positive` values: all others are then 0."
    if column.role == "timestamp" and column.format is None and value is not None:
        return (
            "Fix the row, or set `format` for the column (iso8601, or one of strptime such as "
            "%Y-%m-%d %H:%M:%S)."
        )
    if column.role == "numeric":
        if text.strip().lower() in _MISSING_WORDS:
            return (
                "Fix the row. If the text stands for a missing value, add it to format.missing, "
                "or to missing_texts of the column, in the data-set YAML."
            )
        if text != text.strip():
            return "Fix the row, or set format.skip_blank to true in the data-set YAML."
        if _is_number(text) and column.type == "number":
            return (
                "Fix the row: numbers are stored as float32, up to 3.4e38. If it stands for a "
                "missing value, add it to missing_texts of the column in the data-set YAML."
            )
    return "Fix the row, or correct the column in the data-set YAML."


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
