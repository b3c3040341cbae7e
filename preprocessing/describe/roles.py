"""Guesses the role of each column."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ctrdist.features.json_values import parse_list
from ctrdist.schema import LABEL
from preprocessing.describe.facts import Facts
from preprocessing.describe.labels import LabelGuess, settings_of
from preprocessing.describe.names import TIMES, USERS, flat, says_amount, says_id
from preprocessing.describe.times import TimeGuess, time_of

_SEPARATORS = ("|", "^", "\x02", "#", ";", ", ", ",", " ")
_SURE_SEPARATORS = _SEPARATORS[:4]
_ID_PIECE = re.compile(r"[0-9a-fA-F_:-]+|[a-zA-Z]{1,4}[0-9_:-]+")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_LONG_TEXT = 60
_LONG_LIST = 100
_LEAST_ROWS = 20
_DAYS_FOR_HOURS = 7
"""In a shorter log, a test split by time has not all hours of a day."""
_DAYS_FOR_WEEKDAYS = 28
LEAST_TIMES = 20
"""With fewer different times, rows cannot be split by them."""
_FEW = 3
_SKEWED = 50
_MANY = 30
"""More different integers than this are rather numbers, if they lie like counts."""


@dataclass(frozen=True)
class Choice:
    """The role of a column, and why."""

    name: str
    role: str
    reason: str
    settings: dict[str, Any] = field(default_factory=dict)
    doubt: str = ""
    written: bool = True
    """The YAML names it. false: only a comment does, as preprocessing cannot read it."""


def choose_roles(
    facts: Mapping[str, Facts],
    label: LabelGuess,
    absent: Mapping[str, Sequence[str]],
    *,
    is_named: bool,
) -> list[Choice]:
    """A choice for each column, in order.

    Args:
        facts: those of all columns.
        label: the label, or the columns that may be it.
        absent: columns that some files lack, with their names.
        is_named: the log names its columns.
    """
    times = {n: g for n, f in facts.items() if (g := time_of(f))}
    outcomes = {label.name, *label.others}
    full = [f for n, f in facts.items() if n in times and not f.missing and n not in outcomes]
    time = _first_time(full)
    user = _user(facts, label, is_named=is_named)
    result = []
    for name, f in facts.items():
        choice = _choose(f)
        if name == label.name:
            doubt = label.doubt
            if f.missing and "positive" not in label.settings:
                doubt = f"{f.missing / f.rows:.2%} of the rows have no label, and are left out"
            choice = Choice(name, "label", label.reason, dict(label.settings), doubt)
        elif name in absent:
            choice = Choice(name, "ignore", f"not in {absent[name][0]}", written=False)
        elif name in label.others:
            choice = _further_label(f)
        elif name == time:
            choice = _time(name, times[name])
        elif name in times and not f.is_nested and choice.role != "ignore":
            why = "some rows have no time" if f.missing else "the data set has one time"
            choice = Choice(name, "ignore", f"a time too, and {why}", doubt=times[name].doubt)
        elif name == user:
            doubt = "" if is_named else "the first column of such a log is mostly the user"
            choice = Choice(name, "user", f"its name; {f.describe()}", doubt=doubt)
            if not is_named:
                choice = replace(choice, reason=f.describe())
        if name in label.candidates:
            choice = replace(choice, doubt=f"the label? Then write {_as_label(f)}")
        result.append(choice)
    # The first label is the default of training.
    return sorted(result, key=lambda c: not (is_named and c.name == label.name))


def _further_label(f: Facts) -> Choice:
    found = settings_of(f)
    if found is None or f.missing or f.name == LABEL:
        reason = "an outcome too; as a feature it would tell the label"
        return Choice(f.name, "ignore", reason)
    reason = f"a further label: train with --label {f.name}; as a feature it would tell the first"
    return Choice(f.name, "label", reason, found[0])


def _as_label(f: Facts) -> str:
    """The settings that make a column the label."""
    found = settings_of(f)
    settings = {"role": "label"} | (found[0] if found else {})
    return ", ".join(f"{name}: {value}" for name, value in settings.items())


def _choose(f: Facts) -> Choice:
    """The role of a column that is neither label, user nor time."""
    if f.is_nested:
        return Choice(f.name, "ignore", "nested, or of a type that is not read", written=False)
    if not f.values:
        return Choice(f.name, "ignore", "always missing in the sample")
    if f.is_list:
        return _multi_valued(f, {}, f.longest)
    if len(f.values) == 1 and not f.missing and f.rows >= _LEAST_ROWS:
        return Choice(f.name, "ignore", f"always {f.values[0]!r:.40} in the sample")
    if f.numbers is not None:
        return _number_or_category(f)
    if found := _as_list(f):
        return found
    if f.is_unique:
        return Choice(f.name, "ignore", f"another value in each row: {f.values[0]!r:.40}")
    if np.average([len(v) for v in f.values], weights=f.counts) > _LONG_TEXT:
        return Choice(f.name, "ignore", f"long texts: {f.values[0][:30]!r}", doubt="or categorical")
    doubt = ""
    for pattern, what in ((_THOUSANDS, "thousands' commas"), (_DECIMAL_COMMA, "decimal commas")):
        if sum(bool(pattern.fullmatch(v)) for v in f.values) > 0.5 * len(f.values):
            doubt = f"numbers with {what}, which are read as texts"
    return Choice(f.name, "categorical", f.describe(), doubt=doubt)


def _number_or_category(f: Facts) -> Choice:
    """The role of a column of numbers; f.numbers is given."""
    numbers, counts = f.numbers, f.counts
    assert numbers is not None
    known = ~np.isnan(numbers)
    numbers, counts = numbers[known], counts[known]
    if not f.whole:
        return Choice(f.name, "numeric", f"with fractions: {f.describe()}")
    is_id, is_amount = says_id(f.name), says_amount(f.name)
    if f.is_counter or (f.is_unique and not is_amount):
        doubt = "" if f.is_counter or is_id else "or numeric"
        return Choice(f.name, "ignore", f"another integer in each row: {f.values[0]}", doubt=doubt)
    if is_amount and not is_id and len(numbers) > _FEW:
        return Choice(f.name, "numeric", f"its name; {f.describe()}")
    if is_id and not is_amount:
        return Choice(f.name, "categorical", f"its name; {f.describe()}")
    sizes = {len(value) for value in f.values}
    if any(len(v) > 1 and v[0] == "0" and v.isdigit() for v in f.values):
        return Choice(f.name, "categorical", f"with leading zeros: {f.describe()}")
    if numbers.min() < 0 and len(numbers) > _FEW and not _is_sentinel(numbers):
        return Choice(f.name, "numeric", f"with negative ones: {f.describe()}")
    if len(numbers) > _MANY and sizes and min(sizes) == max(sizes) >= 6:
        return Choice(f.name, "categorical", f"ids of one length: {f.describe()}")
    if _lie_like_counts(numbers, counts):
        return Choice(f.name, "numeric", f"small ones are frequent: {f.describe()}")
    doubt = "or numeric" if len(numbers) > _MANY else ""
    return Choice(f.name, "categorical", f"integers: {f.describe()}", doubt=doubt)


def _lie_like_counts(numbers: np.ndarray, counts: np.ndarray) -> bool:
    """True where numbers are mostly small, and the greater the rarer; ids lie more evenly."""
    order = np.argsort(numbers)
    numbers, counts = numbers[order], counts[order]
    middle = numbers[np.searchsorted(np.cumsum(counts), counts.sum() / 2)]
    skew = numbers[-1] / max(1.0, middle)
    if numbers[0] > 1 or numbers[-1] < 20 or skew < 5:
        return False
    small = numbers <= middle
    return bool(skew > _SKEWED or counts[small].mean() > 3 * counts[~small].mean())


def _is_sentinel(numbers: np.ndarray) -> bool:
    """True where -1 is the only negative number and the others are far from it."""
    others = numbers[numbers >= 0]
    return bool((numbers < 0).sum() == 1 and numbers.min() == -1 and others.min() >= 10)


def _as_list(f: Facts) -> Choice | None:
    """The choice for texts that are lists; None for others."""
    tried = [value.strip() for value in f.values[:2000]]
    if sum(v.startswith("[") and v.endswith("]") for v in tried) > 0.95 * len(tried):
        lists = [parse_list(value) for value in tried]
        if None in lists:
            wrong = tried[lists.index(None)]
            doubt = "lists that cannot be read; write them as JSON, or with separators"
            return Choice(f.name, "ignore", f"{wrong:.40}", doubt=doubt)
        longest = max(len(items or ()) for items in lists)
        return _multi_valued(f, {"text": "json"}, longest)
    for separator in _SEPARATORS:
        parts = [value.split(separator) for value in tried]
        lengths = np.array([len(part) for part in parts])
        rows = f.counts[: len(tried)]
        if rows[lengths > 1].sum() < 0.01 * rows.sum() or len(set(lengths.tolist())) < 2:
            continue
        counts = Counter(piece for part in parts for piece in part)
        pieces = [piece for part in parts if len(part) > 1 for piece in part]
        recurring = sum(counts[piece] > 1 for piece in pieces) / len(pieces)
        if recurring < (0.5 if separator in _SURE_SEPARATORS else 0.9):
            continue
        if separator == " " and not all(_ID_PIECE.fullmatch(piece) for piece in pieces):
            continue
        if separator == "," and all(re.fullmatch(r"[+-]?[\d.]+(,\d+)?", value) for value in tried):
            continue  # decimal commas
        settings = {} if separator == "|" else {"separator": separator}
        return _multi_valued(f, settings, int(lengths.max()), f"values separated by {separator!r}")
    return None


def _multi_valued(f: Facts, settings: dict[str, Any], longest: int, why: str = "lists") -> Choice:
    reason = f"{why}, up to {longest:,}: {f.describe()}"
    if longest > _LONG_LIST:
        settings = settings | {"max_length": _LONG_LIST}
    return Choice(f.name, "multi_valued", reason, settings)


def _time(name: str, guess: TimeGuess) -> Choice:
    settings = dict(guess.settings)
    days = np.ptp(guess.seconds) / 86_400
    parts = []
    if days >= _DAYS_FOR_HOURS and np.any(guess.seconds % 86_400):
        parts.append("hour")
    if days >= _DAYS_FOR_WEEKDAYS:
        parts.append("weekday")
    if parts:
        settings["derive"] = parts
    return Choice(name, "timestamp", guess.reason, settings, guess.doubt)


def _first_time(times: Sequence[Facts]) -> str:
    """The column of the time of the row; empty where there is none.

    One with many different times goes before a date.
    """
    names = {known: i for i, known in enumerate(TIMES)}
    few = {f.name: len(f.values) < LEAST_TIMES for f in times}
    order = sorted(times, key=lambda f: (few[f.name], names.get(flat(f.name), len(names))))
    return order[0].name if order else ""


def _user(facts: Mapping[str, Facts], label: LabelGuess, *, is_named: bool) -> str:
    """The column of the user; empty where there is none."""
    able = {
        n: f
        for n, f in facts.items()
        if len(f.values) > 1 and not (f.is_unique or f.is_list or f.is_nested) and n != label.name
    }
    if is_named:
        return next((n for known in USERS for n in able if flat(n) == known), "")
    first = next(iter(facts), "")
    whole = first in able and (able[first].numbers is None or able[first].whole)
    return first if whole and label.reason.startswith(("rating", "behaviour")) else ""
