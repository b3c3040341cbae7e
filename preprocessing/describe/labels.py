"""Guesses which column says whether a row is a click."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ctrdist.errors import ConfigError
from preprocessing.describe.facts import Facts
from preprocessing.describe.names import BEHAVIOURS, LABELS, RATINGS, flat, words

_YES = ("true", "t", "yes", "y", "click", "clicked", "positive", "pos")
_OUTCOMES = frozenset(
    {*LABELS, "clicks", "conversions", "purchases", "order", "orders", "ordered", "paid", "sale",
     "follow", "followed", "share", "shared", "comment", "forward", "favorite", "favourite",
     "cart", "install", "installed", "download", "register", "registered"}
)  # fmt: skip
"""Words that tell an outcome where the column holds one."""
_CLICKS = ("click", "clicked", "clk")
_MARKS = frozenset({"is", "has", "was", "did", "label", "flag"})
"""Words beside an outcome's that make it the name of a label."""
_MOST_LETTERS = 20
_MOST_RATINGS = 21


@dataclass(frozen=True)
class LabelGuess:
    """The label, or the columns that may be it."""

    name: str = ""
    """Empty where it cannot be known."""
    settings: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    doubt: str = ""
    others: tuple[str, ...] = ()
    """Other columns that hold an outcome of the row, and are no features."""
    candidates: tuple[str, ...] = ()
    """Where it cannot be known: the columns that may be it."""


def find_label(facts: Mapping[str, Facts], wanted: str, *, is_named: bool) -> LabelGuess:
    """The column of the label.

    Args:
        facts: those of all columns, in order.
        wanted: name that the user gave; empty for none.
        is_named: the log names its columns.

    Raises:
        ConfigError: the wanted column does not exist, or cannot be the label.
    """
    usable = {name: found for name, f in facts.items() if (found := settings_of(f))}
    outcomes = _outcomes(usable) if is_named else []
    if wanted:
        return _wanted(facts, wanted, [name for name in outcomes if name != wanted])
    if outcomes:
        name = outcomes[0]
        settings, reason, doubt = usable[name]
        return LabelGuess(name, settings, f"its name; {reason}", doubt, others=tuple(outcomes[1:]))
    behaviours = [name for name in usable if _groups(facts[name])]
    if len(behaviours) == 1:
        return LabelGuess(behaviours[0], *usable[behaviours[0]])
    full = {name: one for name, one in usable.items() if not facts[name].missing}
    binary = [name for name, (settings, *_) in full.items() if not settings]
    ratings = [name for name, one in full.items() if one[1].startswith("rating")]
    names = list(facts)
    if not is_named and not binary and len(ratings) == 1:
        return LabelGuess(ratings[0], *full[ratings[0]])
    at_end = binary and binary[0] in (names[0], names[-1])
    if len(binary) == 1 and (at_end or not (is_named or ratings)):
        doubt = "its name does not tell" if is_named else ""
        return LabelGuess(binary[0], {}, "the only column of 0 and 1", doubt)
    if not is_named and names[0] in binary:
        others = ", ".join(binary[1:])
        return LabelGuess(names[0], {}, "0 and 1 in the first column", f"{others} hold 0 and 1 too")
    return LabelGuess(candidates=tuple([*binary, *ratings] or usable))


def settings_of(facts: Facts) -> tuple[dict[str, Any], str, str] | None:
    """Settings, reason and doubt of a column as label; None where it cannot be it."""
    if facts.is_list or facts.is_nested or facts.is_time or not 1 < len(facts.values) <= 1000:
        return None
    small = {value.lower(): value for value in facts.values}
    if facts.is_boolean:
        return {}, "true or false", ""
    if facts.numbers is not None:
        return _of_numbers(facts)
    if len(facts.values) == 2:
        yes = [small[word] for word in _YES if word in small]
        if len(yes) == 1:
            return {"positive": yes}, f"{' or '.join(sorted(facts.values))}", ""
    groups = _groups(facts)
    if len(groups) > 1 or (groups and len(facts.values) == 2):
        rest = ", ".join(value for value in facts.values if value not in groups[0])
        doubt = f"the others are {rest}; add those that are a click to you"
        return {"positive": groups[0]}, f"behaviour: {', '.join(facts.values[:8])}", doubt
    if len(facts.values) == 2 and max(map(len, facts.values)) <= _MOST_LETTERS:
        common, rare = facts.values
        return {"positive": [rare]}, f"{common} or {rare}", f"{rare}, the rarer one, is a click"
    return None


def _of_numbers(facts: Facts) -> tuple[dict[str, Any], str, str] | None:
    numbers = facts.numbers
    assert numbers is not None
    low, high = float(numbers.min()), float(numbers.max())
    share = f"{facts.counts[numbers == high].sum() / max(1, facts.filled):.1%} are {high:g}"
    if set(numbers.tolist()) == {0, 1}:
        return {}, f"0 or 1; {share}", ""
    if len(numbers) == 2:
        return {"threshold": _plain(high)}, f"{low:g} or {high:g}; {share}", ""
    if low == 0 and facts.whole and _tells_outcome(words(facts.name)):
        return {"threshold": 1}, f"counts from 0 to {high:g}", "any count above 0 is a click"
    halves = bool((numbers * 2 == (numbers * 2).round()).all())
    if low >= 0 and 3 <= high <= 10 and halves and len(numbers) <= _MOST_RATINGS:
        threshold = _plain(math.ceil(high * 0.8))
        doubt = f"{threshold} and more count as a click; choose another threshold if you like"
        return {"threshold": threshold}, f"rating from {low:g} to {high:g}", doubt
    return None


def _outcomes(usable: Iterable[str]) -> list[str]:
    """Columns whose names tell an outcome, the surest first."""
    by_name = {name: flat(name) for name in usable}
    found = [name for label in LABELS for name in by_name if by_name[name] == label]
    found += [name for name in by_name if name not in found and _tells_outcome(words(name))]
    return found or [name for name in by_name if by_name[name] in RATINGS][:1]


def _tells_outcome(parts: Sequence[str]) -> bool:
    """True for the words of is_click, clicked_on_ad or orders."""
    if _OUTCOMES.isdisjoint(parts):
        return False
    return len(parts) == 1 or parts[0] in _CLICKS or not _MARKS.isdisjoint(parts)


def _groups(facts: Facts) -> list[list[str]]:
    """The values that name a behaviour, by kinds, the most deliberate first; empty for others."""
    if facts.numbers is not None or len(facts.values) > 20:
        return []
    kinds = [[v for v in facts.values if flat(v) in kind] for kind in BEHAVIOURS]
    found = [kind for kind in kinds if kind]
    known = sum(map(len, found))
    return found if known >= 0.75 * len(facts.values) else []


def _wanted(facts: Mapping[str, Facts], wanted: str, others: Sequence[str]) -> LabelGuess:
    if wanted not in facts:
        raise ConfigError(
            f"--label {wanted}: no such column; there are {', '.join(list(facts)[:50])}."
        )
    found = settings_of(facts[wanted])
    if found is None:
        raise ConfigError(
            f"--label {wanted}: it holds {facts[wanted].describe()}; a label has 0 and 1, two "
            "values, or few numbers of which the greater are clicks."
        )
    reason = f"as --label says; {found[1]}"
    return LabelGuess(wanted, found[0], reason, found[2], others=tuple(others))


def _plain(number: float) -> float | int:
    return int(number) if number == int(number) else number
