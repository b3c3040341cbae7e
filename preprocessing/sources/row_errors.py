"""What can be wrong with a row, in words."""

from __future__ import annotations

from dataclasses import dataclass

from ctrdist.errors import DataError
from preprocessing.config.settings import ColumnConfig

_SHOWN = 200
_FIX = "Fix the row, or correct the column in the data-set YAML."


@dataclass(frozen=True)
class Fault:
    """Why a line or a value is no good."""

    reason: str
    """Such as: 39 columns, expected 40 (label, …), separated by tab."""
    remedy: str
    column: str | None = None
    """Whose value it is, where one column's is."""

    def error(self, place: str) -> DataError:
        """The error that ends a run."""
        return DataError(f"{place}: {self.reason}. {self.remedy}")


def wrong_value(column: ColumnConfig, given: str | None) -> Fault:
    """A value that is not of its column's kind."""
    wants = {"label": "0 or 1", "timestamp": "an integer (seconds)"}.get(column.role)
    if wants is None or (column.role == "label" and column.threshold is not None):
        wants = "an integer" if column.type == "integer" else "a finite number"
    shown = "nothing" if given is None else f'"{given[:_SHOWN]}"'
    return Fault(f"column {column.name} wants {wants}, got {shown}", _FIX, column.name)
