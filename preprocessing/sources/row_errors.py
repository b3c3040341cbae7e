"""Faults of rows, in words."""

from __future__ import annotations

from dataclasses import dataclass

from ctrdist.errors import DataError
from ctrdist.features.columns import ColumnConfig
from ctrdist.features.typed_columns import wrong_value


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


def wrong_value_fault(column: ColumnConfig, given: str | None) -> Fault:
    """The fault of a value that is not of its column's kind."""
    return Fault(*wrong_value(column, given), column.name)
