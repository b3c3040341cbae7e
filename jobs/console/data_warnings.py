"""The warnings of a data set's report as lines of the terminal."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

MOST_LINES = 8
_NAMED = 3
"""Columns that a line names, beside the one whose warning it shows."""


def warning_lines(warnings: Sequence[Mapping[str, Any]]) -> list[str]:
    """At most MOST_LINES lines, worst first, and one that says how many are in the report.

    Columns with the same kind of warning share a line. The warnings are those of report.json:
    sorted, each with a text, and with a column where it is one column's.
    """
    ordered = sorted(warnings, key=lambda one: (-one["weight"], one["kind"]))
    groups = [list(group) for _, group in groupby(ordered, lambda one: (one["kind"], _own(one)))]
    lines = []
    for group in groups[:MOST_LINES]:
        name = _shown(group[0].get("column", ""))
        rest = [_shown(one["column"]) for one in group[1:]]
        more = f" and {len(rest) - _NAMED:,} more" if len(rest) > _NAMED else ""
        also = f" The same holds for {', '.join(rest[:_NAMED])}{more}." if rest else ""
        lines.append(f"warning: {f'{name}: ' if name else ''}{group[0]['text']}{also}")
    left = sum(map(len, groups[MOST_LINES:]))
    return [*lines, f"{left:,} more warnings in report.html"] if left else lines


def _own(one: Mapping[str, Any]) -> str:
    """Returns the key that sets a warning apart in its kind: its text, unless it is a column's."""
    return "" if "place" in one else str(one["text"])


def _shown(name: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)
