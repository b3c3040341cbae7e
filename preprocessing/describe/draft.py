"""Writes the YAML of a data set with the reason of each guess."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import yaml

from preprocessing.config.settings import FormatConfig
from preprocessing.describe.facts import NULLS, Facts
from preprocessing.describe.labels import LabelGuess
from preprocessing.describe.roles import Choice
from preprocessing.describe.splits import SplitGuess
from preprocessing.describe.table import Sample

_LEAST_RANGE = 3
_COMMENT = 160
_MIN_COUNTS = ((10_000, 1), (1_000_000, 2), (10_000_000, 4))
"""Rows of the log below which a min_count is drafted; 10 above."""


@dataclass(frozen=True)
class Guesses:
    """All guesses about a log."""

    name: str
    files: int
    sample: Sample
    facts: Mapping[str, Facts]
    label: LabelGuess
    choices: Sequence[Choice]
    split: SplitGuess
    notes: Sequence[str] = ()
    """Further doubts, for the top."""

    @property
    def doubts(self) -> list[str]:
        """All that is to be looked at."""
        found = [*self.notes, *self.sample.doubts]
        if not self.label.name:
            found.append(_question(self.label))
        if self.split.doubt:
            found.append(f"split: {self.split.doubt}")
        columns: dict[str, list[str]] = {}
        for choice in self.choices:
            columns.setdefault(choice.doubt, []).append(choice.name)
        return found + [f"{', '.join(c)}: {doubt}" for doubt, c in columns.items() if doubt]


def draft(guesses: Guesses) -> str:
    """The text of the YAML, with a line end."""
    sample, split = guesses.sample, guesses.split
    count = f"{sample.sampled:,} of about {max(sample.rows, sample.sampled):,.0f}"
    lines = [
        f"# Drafted by jobs/describe.py from {count} rows in {guesses.files:,} "
        f"file{'s' if guesses.files != 1 else ''}.",
        "# A comment gives the reason of a guess. `# ?` marks a doubt: look at these first.",
        *(f"# ? {_safe(note)}" for note in (*guesses.notes, *sample.doubts)),
        f"name: {_flow(guesses.name)}",
        _line(f"format: {_flow(_layout(guesses))}", "; ".join(sample.reasons)),
        _line(f"split: {_flow(split.settings)}", split.reason, split.doubt),
    ]
    low = next((n for rows, n in _MIN_COUNTS if sample.rows < rows), 10)
    about = f"rarer values share one id; the log has about {sample.rows:,.0f} rows"
    lines.append(_line(f"min_count: {low}", about))
    if any(c.role == "numeric" for c in guesses.choices):
        names = {c.name for c in guesses.choices}
        as_both = not any(f"{name}_bucket" in names for name in names)
        why = "as numbers and, in buckets, as categories"
        lines.append(_line("numeric_as: both", why) if as_both else "numeric_as: number")
    if bad := bad_rows(guesses):
        share, why = bad
        limit = max(0.001, float(f"{3 * share:.0e}"))
        setting = {"policy": "quarantine", "limit": min(limit, 1.0)}
        lines.append(_line(f"bad_rows: {_flow(setting)}", "", f"left out: {why}"))
    lines.append("columns:")
    if not guesses.label.name:
        lines.append(f"  # ? {_safe(_question(guesses.label))}")
    for run in _runs([_with_missing_texts(c, guesses.facts) for c in guesses.choices]):
        lines.append(_entry(run))
    return "\n".join(lines) + "\n"


def bad_rows(guesses: Guesses) -> tuple[float, str] | None:
    """The share of sampled rows that are to be left out, and which they are; None for none."""
    sample, found = guesses.sample, []
    total = sample.sampled + sample.bad_rows
    if sample.bad_rows:
        found.append((sample.bad_rows, "lines that are no rows"))
    for choice in guesses.choices:
        if choice.role not in ("label", "numeric"):
            continue
        f = guesses.facts[choice.name]
        if choice.role == "label" and f.missing and "positive" not in choice.settings:
            found.append((f.missing, f"rows without {choice.name}"))
        if choice.role == "numeric" and f.wrong:
            found.append((f.wrong, f"rows where {choice.name} is no number"))
    share = sum(count for count, _ in found) / max(1, total)
    text = ", ".join(f"{count:,} sampled {what}" for count, what in found)
    return (share, text) if found else None


def _layout(guesses: Guesses) -> dict[str, Any]:
    """The format's settings that are not the defaults."""
    default = FormatConfig()
    layout = guesses.sample.layout
    used = [c for c in guesses.choices if c.role != "ignore"]
    nulls = sorted({text for c in used for text in guesses.facts[c.name].nulls if text in NULLS})
    if nulls:
        layout = replace(layout, missing=["", *nulls])
    given = {k: v for k, v in asdict(layout).items() if v != getattr(default, k)}
    return {"type": layout.type} | given


def _with_missing_texts(choice: Choice, facts: Mapping[str, Facts]) -> Choice:
    own = sorted(facts[choice.name].nulls.difference(NULLS)) if choice.written else []
    if not own or choice.role == "ignore":
        return choice
    return replace(choice, settings=choice.settings | {"missing_texts": own})


def _question(label: LabelGuess) -> str:
    shown = ", ".join(label.candidates[:8]) or "none is sure"
    return (
        "Which column is the label? Write `role: label` in its line, or start describe again with "
        f"--label NAME. Candidates: {shown}"
    )


def _runs(choices: Sequence[Choice]) -> list[list[Choice]]:
    """The choices in order; those that one range can name are together."""
    result: list[list[Choice]] = []
    for choice in choices:
        if result and _follows(result[-1][-1], choice):
            result[-1].append(choice)
        else:
            result.append([choice])
    short = [run for run in result if len(run) < _LEAST_RANGE]
    return [part for run in result for part in ([[c] for c in run] if run in short else [run])]


def _follows(before: Choice, after: Choice) -> bool:
    same = (before.role, before.settings) == (after.role, after.settings)
    same &= before.doubt == after.doubt
    if not (same and before.written and after.written):
        return False
    parts = [re.fullmatch(r"(.*?)(0|[1-9]\d*)", c.name, re.DOTALL) for c in (before, after)]
    if not parts[0] or not parts[1] or ".." in before.name:
        return False
    (stem, number), (other, following) = (part.groups() for part in parts if part)
    return stem == other and int(following) == int(number) + 1


def _entry(run: Sequence[Choice]) -> str:
    first, last = run[0], run[-1]
    name = first.name if len(run) == 1 else f"{first.name}..{last.name}"
    if not first.written:
        return f"  # left out: {_safe(first.name)}: {_safe(first.reason)}"
    setting: dict[str, Any] = {"name": name}
    if first.role != "categorical":
        setting["role"] = first.role
    reason = first.reason if len(run) == 1 else f"{len(run)} columns; the first: {first.reason}"
    return _line(f"  - {_flow(setting | first.settings)}", reason, first.doubt)


def _line(text: str, reason: str, doubt: str = "") -> str:
    comment = f"? {doubt}" if doubt else ""
    comment = "; ".join(filter(None, [comment, reason]))
    return f"{text}  # {_safe(comment)[:_COMMENT]}" if comment else text


def _safe(text: str) -> str:
    """The text without line ends and other characters that a YAML's comment may not have."""
    return "".join(c if c.isprintable() else "·" for c in text)


def _flow(value: Any) -> str:
    text = yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf
    )
    return text.removesuffix("...\n").strip()
