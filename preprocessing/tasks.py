"""What runs in Ray's workers: a generator for each kind of task over a shard, and what they share.

Each yields a :class:`Step` now and then, for the progress bar, and its summary last. It leaves its
files in the work directory, then its mark, and returns what the mark says: so it may be killed at
any moment and run again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ctrdist.schema import FIRST_VALUE_ID
from preprocessing.coded import CodedWriter, read_coded
from preprocessing.config import PreprocessConfig
from preprocessing.derived import Derived
from preprocessing.dictionary import Dictionary, PlainDictionary
from preprocessing.division import Division, Tally
from preprocessing.executor import Step
from preprocessing.inputs import Shard
from preprocessing.joins import Side, attach
from preprocessing.numbers import NumberStatistics
from preprocessing.quarantine import BadRow, clean
from preprocessing.reader import Block, parse_block, read_blocks, read_text_blocks
from preprocessing.scanned import Scanned
from preprocessing.scanner import Scanner
from preprocessing.work import Work

Summary = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What all tasks of a run share."""

    config: PreprocessConfig
    sides: Sequence[Side]
    """The joined tables."""
    work: Work
    division: Division | None = None
    """How rows are divided into splits; None until it is known."""


def scan(plan: Plan, index: int, shard: Shard) -> Iterator[Step | Summary]:
    """Parses a shard, once: coded rows, dictionaries, and what the division has to know."""
    config, store = plan.config, plan.work.store
    scanner = Scanner(config)
    derived = Derived(config)
    tally = Tally.of(config.split)
    bad: list[BadRow] = []
    with CodedWriter(store, f"scan/{index:05d}.arrow", config) as coded:
        for rows, stored, found in _scanned(plan, shard, scanner):
            derived.add(rows, scanner.dictionaries)
            tally.add(rows.label, rows.timestamp)
            coded.write(rows)
            bad += found
            yield Step(len(rows.label) + len(found), stored)
    if bad:
        text = "".join(f"{row.to_json()}\n" for row in bad)
        store.put(f"bad/{index:05d}.jsonl", text.encode())
    summary = {"tally": tally.to_json(), "bad": len(bad), "reasons": _reasons(bad)}
    summary |= count(plan, index, {**scanner.dictionaries, **derived.dictionaries})
    plan.work.mark(f"scan-{index:05d}", summary)
    yield summary
