"""Guesses how a log is split into training, validation and test rows."""

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from preprocessing.describe.roles import LEAST_TIMES, Choice
from preprocessing.sources.shards import ByteRange

_WORDS = {
    "train": "train", "training": "train", "valid": "valid", "validation": "valid", "val": "valid",
    "dev": "valid", "eval": "valid", "test": "test", "testing": "test", "holdout": "test",
}  # fmt: skip
_TIME_WORDS = re.compile(r"(day|date|dt|hour|week|month|year)s?([\W_=]*\d)|\d{4}-?\d\d-?\d\d", re.I)
_FRACTIONS = [0.8, 0.1, 0.1]


@dataclass(frozen=True)
class SplitGuess:
    """Settings of the split, and why."""

    settings: dict[str, Any]
    reason: str
    doubt: str = ""


def choose_split(files: Sequence[ByteRange], choices: Sequence[Choice], times: int) -> SplitGuess:
    """The split of a log.

    Args:
        files: those with a label, in log order.
        choices: the roles of the columns.
        times: different times in the sample; 0 where there is no time.
    """
    names = [file.name for file in files]
    kinds = {name: split_of(name) for name in names}
    found = set(kinds.values())
    if {"train", "valid", "test"} <= found and "" not in found:
        patterns = {k: _patterns([n for n in names if kinds[n] == k], k) for k in ("valid", "test")}
        return SplitGuess({"by": "file", **patterns}, "the names of the files say so")
    doubt = ""
    if {"train", "test"} <= found or {"train", "valid"} <= found:
        have = " and ".join(sorted(found - {""}))
        doubt = f"the files are called {have}, but three splits are needed; all rows are split anew"
    time = next((c.name for c in choices if c.role == "timestamp"), "")
    if times >= LEAST_TIMES:
        settings: dict[str, Any] = {"by": "time", "fractions": _FRACTIONS}
        return SplitGuess(settings, f"by {time}: train on the past, test on what follows", doubt)
    if len(files) >= 3 and all(_TIME_WORDS.search(name) for name in names):
        settings = {"by": "position", "fractions": _FRACTIONS}
        return SplitGuess(settings, "the files are in the order of time", doubt)
    why = f"{time} has only {times} times" if time else "no column has a time"
    order = "if the rows lie in the order of time, `by: position` tests fairer"
    settings = {"by": "hash", "fractions": _FRACTIONS, "seed": 2024}
    return SplitGuess(settings, f"{why}, so each row is drawn", doubt or order)


def split_of(name: str) -> str:
    """The split that the name of a file, or of its folders, tells; empty for none."""
    for part in reversed(name.split("/")):
        for word in re.split(r"[^a-zA-Z]+", part):
            if word.lower() in _WORDS:
                return _WORDS[word.lower()]
    return ""


def _patterns(names: Sequence[str], kind: str) -> list[str]:
    """Patterns of split.valid or split.test that match these files."""
    found: dict[str, None] = {}
    for name in names:
        parts = name.split("/")
        depth = next(i for i, part in enumerate(reversed(parts)) if split_of(part) == kind)
        if depth:  # a folder says it
            pattern = "/".join([parts[-1 - depth], *["*"] * depth])
        else:
            base = posixpath.basename(name)
            pattern = base if len(names) < 4 else re.sub(r"\d+", "*", base)
        found[pattern] = None
    return list(found)
