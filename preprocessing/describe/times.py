"""Guesses how a column writes a time."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ctrdist.features.raw_values import UNITS, parse_times
from preprocessing.describe.facts import Facts
from preprocessing.describe.names import TIMES, flat, says_id, words

FIRST = datetime(1990, 1, 1, tzinfo=UTC).timestamp()
LAST = datetime(2100, 1, 1, tzinfo=UTC).timestamp()
_DIGITS = {8: ("%Y%m%d", "%y%m%d%H"), 10: ("%Y%m%d%H",), 12: ("%Y%m%d%H%M",), 14: ("%Y%m%d%H%M%S",)}
"""Number of digits → formats of them."""
_DATES = ("%Y/%m/%d", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%d %b %Y", "%d-%b-%Y")
_CLOCKS = ("", " %H:%M:%S", " %H:%M", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")
_OTHERS = ("%d/%b/%Y:%H:%M:%S %z", "%a %b %d %H:%M:%S %z %Y", "%Y-%m-%d-%H", "%Y-%m-%d:%H:%M:%S")
FORMATS = (*_OTHERS, *(date + clock for date in _DATES for clock in _CLOCKS))
_ISO = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d(:?\d\d(:?\d\d([.,]\d+)?)?)?)?(Z|[+-]\d\d(:?\d\d)?)?")
ISO = "iso8601"
_TRIED = 200
_YEARS = 20
_LEAST = 20
"""Integers without a time's name are no time where there are fewer of them."""
_YEAR_S = 365 * 86400


@dataclass(frozen=True)
class TimeGuess:
    """How a column writes a time, and which one."""

    settings: dict[str, Any]
    """Settings of the column but for its role."""
    reason: str
    seconds: np.ndarray
    """(k,) seconds since 1970 of some of its values."""
    doubt: str = ""


def time_of(facts: Facts) -> TimeGuess | None:
    """The way in which a column writes a time; None for a column that holds none."""
    if facts.is_list or not facts.values or facts.wrong:
        return None
    hinted = flat(facts.name) in TIMES
    hinted |= not {"time", "date", "timestamp"}.isdisjoint(words(facts.name))
    if facts.is_time:
        times = parse_times(_some(facts.values), ISO)
        seconds = np.array([time for time in times if time is not None], np.float64)
        return TimeGuess({}, "of a time's type", seconds) if len(seconds) else None
    if facts.numbers is not None:
        return _of_digits(facts, hinted) or _of_unit(facts, hinted)
    tried = _some(facts.values)
    if not all(any(c.isdigit() for c in value) for value in tried):
        return None
    if all(_ISO.fullmatch(value) for value in tried):
        return _of_format(tried, ISO)
    found = [guess for form in FORMATS if (guess := _of_format(tried, form))]
    if len(found) > 1:
        others = ", ".join(str(guess.settings["format"]) for guess in found[1:])
        return TimeGuess(found[0].settings, found[0].reason, found[0].seconds, f"or {others}")
    return found[0] if found else None


def _some(values: list[str]) -> list[str]:
    """About _TRIED of the values, from all over the sample."""
    return values[:: -(-len(values) // _TRIED)]


def _of_unit(facts: Facts, hinted: bool) -> TimeGuess | None:
    numbers = facts.numbers
    if numbers is None or not facts.whole or (says_id(facts.name) and not hinted):
        return None
    for unit, per_second in UNITS.items():
        seconds = numbers / per_second
        if seconds.min() >= FIRST and seconds.max() < LAST:
            years = (seconds.max() - seconds.min()) / _YEAR_S
            if not hinted and (years > _YEARS or len(numbers) < _LEAST):
                return None
            doubt = "" if hinted else "these integers may be ids"
            settings = {} if unit == "s" else {"unit": unit}
            return TimeGuess(settings, f"{unit} since 1970: {_days(seconds)}", seconds, doubt)
    return None


def _of_digits(facts: Facts, hinted: bool) -> TimeGuess | None:
    some = _some(facts.values)
    if not all(value.isascii() and value.isdigit() for value in some):
        return None
    sizes = {len(value) for value in facts.values}
    if len(sizes) > 1 or (says_id(facts.name) and not hinted):
        return None
    for form in _DIGITS.get(sizes.pop(), ()):
        if guess := _of_format(some, form):
            return guess
    return None


def _of_format(values: list[str], form: str) -> TimeGuess | None:
    if form != ISO and not _fits(values[0], form):
        return None
    times = parse_times(values, form)
    if not _is_sane(times):
        return None
    seconds = np.array(times, np.float64)
    reason = f"dates such as {values[0]}: {_days(seconds)}"
    return TimeGuess({"format": form}, reason, seconds)


def _fits(text: str, form: str) -> bool:
    try:
        return bool(datetime.strptime(text, form))
    except ValueError:
        return False


def _is_sane(times: Sequence[int | None]) -> bool:
    return all(time is not None and FIRST <= time < LAST for time in times)


def _days(seconds: np.ndarray) -> str:
    first, last = (datetime.fromtimestamp(t, UTC).date() for t in (seconds.min(), seconds.max()))
    return f"{first} to {last}"
