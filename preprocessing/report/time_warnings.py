"""Warnings of the timestamp: years that no log has, and splits of a single day."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ctrdist.data.manifest import SPLITS
from ctrdist.features.raw_values import UNITS
from preprocessing.report.measures import by_split
from preprocessing.report.warnings import percent, warning
from preprocessing.statistics.profile import Series

FIRST, END = (int(np.datetime64(f"{year}-01-01", "s").astype(int)) for year in (1990, 2100))
"""Seconds of the years in which logs were written."""
DAY = 86400
FEW_DAYS = 3


def time_warnings(series: Series, column: str, unit: str | None) -> Iterator[dict[str, Any]]:
    """Warnings of a series over time.

    Args:
        series: rows by time and split.
        column: the timestamp's column.
        unit: its unit; None where it is not one of integers.
    """
    splits = by_split(series.counts)
    rows = splits.sum(axis=1)
    if not rows.sum():
        return
    starts = (series.first + np.arange(len(rows))) * series.width
    odd = (rows > 0) & ((starts + series.width <= FIRST) | (starts >= END))
    if odd.any():
        first, last = (_text(int(starts[i])) for i in np.flatnonzero(odd)[[0, -1]])
        middle = int(np.median(np.repeat(starts[odd], np.minimum(rows[odd], 1000))))
        text = (
            f"{percent(rows[odd].sum() / rows.sum())} of the times lie outside the years 1990 to "
            f"2099, from {first} to {last}. {_advice(middle, unit)}"
        )
        yield warning("years", text, 9) | {"column": column}
        return
    days = [starts[splits[:, i] > 0] // DAY for i in range(len(SPLITS))]
    whole = series.width <= DAY and len(days[0]) and days[0][-1] - days[0][0] + 1 >= FEW_DAYS
    for name, found in zip(SPLITS[1:], days[1:], strict=True):
        if whole and len(found) and found[0] == found[-1]:
            text = (
                f"All rows of {name} are of one day ({_text(int(found[0]) * DAY)}): what it shows "
                "holds for that weekday. A week of rows says more."
            )
            yield warning("one_day", text, 2)


def _advice(seconds: int, unit: str | None) -> str:
    """The unit with which a time lies in a year of logs, if there is one."""
    if unit is not None:
        given = seconds * UNITS[unit]
        for other, per_second in UNITS.items():
            if FIRST <= given // per_second < END:
                return f"`unit: {other}` would make that {_text(given // per_second)}."
    return "Correct the column's `unit` or format, or give it another role if it is no time."


def _text(seconds: int) -> str:
    """The day of a time; the seconds themselves where no calendar reaches it."""
    if not -(2**36) < seconds < 2**38:
        return f"second {seconds:,}"
    return str(np.datetime64(seconds, "s").astype("datetime64[D]"))
