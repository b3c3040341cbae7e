"""Faults of rows, in words."""

from __future__ import annotations

from dataclasses import dataclass

from ctrdist.errors import DataError
from ctrdist.features.columns import ColumnConfig
from ctrdist.features.typed_columns import wrong_value


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


def wrong_value_fault(column: ColumnConfig, given: str | None) -> Fault:
    """The fault of a value that is not of its column's kind."""
    return Fault(*wrong_value(column, given), column.name)
