"""What runs in Ray's workers: a generator for each kind of task.

Each yields a :class:`Step` now and then, for the progress bar, and its summary last. It leaves its
files in the work directory, then its mark, and returns what the mark says: so it may be killed at
any moment and run again.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ctrdist.data.manifest import SPLITS
from ctrdist.features.encode import LocalRows
from ctrdist.native.dictionary import Dictionary
from preprocessing.config.settings import PreprocessConfig
from preprocessing.runtime.task_runner import Step
from preprocessing.runtime.work_dir import Work, digest, stamped
from preprocessing.scan.derived_features import Derived
from preprocessing.scan.scan_file import CodedWriter, read_coded
from preprocessing.scan.scanner import Scanner
from preprocessing.sources.quarantine import BadRow, clean
from preprocessing.sources.reader import Block, parse_block, read_blocks, read_text_blocks
from preprocessing.sources.shards import Shard, versions
from preprocessing.sources.side_tables import Side
from preprocessing.sources.text_blocks import TextBlock
from preprocessing.split.plan import Assigner, Division, Tally
from preprocessing.statistics.numeric import NumberStatistics
from preprocessing.vocabulary.shard_values import (
    ColumnValues,
    ValuesIndex,
    read_values,
    write_values,
)
from preprocessing.vocabulary.vocabularies import (
    Group,
    MergeSummary,
    NumberSummary,
    Rule,
    assign,
    merge,
)

Summary = dict[str, Any]
Words = Mapping[str, Dictionary]
_FULL = 1.5
"""A section is full with so many times shard_bytes: uncompressed shards have one."""
_NO_COUNTS = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Plan:
    """What all tasks of a run share."""

    config: PreprocessConfig
    sides: Sequence[Side]
    """The joined tables."""
    work: Work


def scan(plan: Plan, index: int, shard: Shard) -> Iterator[Step | Summary]:
    """Parses a shard, once: coded rows, values with their counts, and what the division needs.

    A shard that turns out to be much larger than planned, as a compressed file may, is cut into
    sections, which the later passes take for shards: no task ever holds more than one.
    """
    sections: list[Summary] = []
    blocks = _blocks(plan.config, shard)
    while True:
        name = f"{index:05d}-{len(sections):04d}"
        section = yield from _section(plan, name, shard, blocks)
        if section is None:
            break
        sections.append(section)
    summary = {"sections": sections}
    plan.work.mark(scan_mark(index, shard), summary)
    yield summary


def scan_mark(index: int, shard: Shard) -> str:
    """The mark of a shard that is scanned: another one when its files have changed."""
    return f"scan-{index:05d}-{digest(versions([shard]))}"


def recount(
    plan: Plan, place: int, division: Division, section: Summary, stamp: str
) -> Iterator[Summary]:
    """Counts a section's training rows once it is known which they are.

    Args:
        plan: what all share.
        place: of the section among all.
        division: of all sections.
        section: from :func:`scan`.
        stamp: of the files of the run; so below.
    """
    values = read_values(plan.work.store, ValuesIndex(**section["values"]))
    name = section["name"]
    out = f"counted/{name}"
    counted = {**section, **_count(plan, name, division.shard(place), values, out)}
    plan.work.mark(stamped(f"count-{name}", stamp), counted)
    yield counted


def merge_group(
    plan: Plan,
    index: int,
    group: Group,
    shards: Sequence[ValuesIndex],
    rules: Mapping[str, Rule],
    parents: Sequence[ValuesIndex],
    stamp: str,
) -> Iterator[Summary]:
    """Counts and orders the values of a group."""
    out = f"merge/{index:05d}"
    summary = asdict(merge(plan.work.store, group, shards, rules, out, parents))
    plan.work.mark(stamped(f"merge-{index:05d}", stamp), summary)
    yield summary


def assign_group(
    plan: Plan,
    index: int,
    merged: MergeSummary,
    numbered: Mapping[str, NumberSummary],
    rules: Mapping[str, Rule],
    stamp: str,
) -> Iterator[Summary]:
    """Writes the ids of each shard's values of a group."""
    out = f"ids/{index:05d}"
    summary = asdict(assign(plan.work.store, merged, numbered, rules, out))
    plan.work.mark(stamped(f"assign-{index:05d}", stamp), summary)
    yield summary


def known_division(config: PreprocessConfig, shard: Shard) -> Division | None:
    """How a shard is divided, where its rows alone tell."""
    split = config.split
    alone = shard.split is not None or split.by == "hash" or (split.by == "time" and split.times)
    return Division.of(split, [Tally.of(split)], [shard.split]) if alone else None


def split_of(assigner: Assigner, rows: LocalRows) -> np.ndarray:
    """(n,) int8 index into SPLITS."""
    return assigner.next(rows.label, rows.timestamp, rows.row_hash)


Raw = tuple[TextBlock, list[str]] | Block


def _blocks(config: PreprocessConfig, shard: Shard) -> Iterator[tuple[Raw, int]]:
    """(block before it is parsed, its bytes in memory)."""
    if config.format.type == "parquet":
        for block in read_blocks(shard, config):
            yield block, block.table.nbytes
    else:
        for text, names in read_text_blocks(shard, config):
            yield (text, names), len(text.raw)


def _section(
    plan: Plan, name: str, shard: Shard, blocks: Iterator[tuple[Raw, int]]
) -> Generator[Step, None, Summary | None]:
    """Scans blocks until the section is full; None where there are no more."""
    config, store = plan.config, plan.work.store
    first = next(blocks, None)
    if first is None:
        return None
    scanner, derived = Scanner(config, plan.sides), Derived(config)
    tally, bad, taken = Tally.of(config.split), list[BadRow](), 0
    with CodedWriter(store, coded_name(name)) as coded:
        for raw, size in itertools.chain([first], blocks):
            rows, found, stored = _parsed(config, raw, scanner)
            derived.add(rows, scanner.dictionaries)
            tally.add(rows.label, rows.timestamp)
            coded.write(rows)
            bad += found
            taken += size
            yield Step(len(rows.label) + len(found), stored)
            if taken >= _FULL * config.shard_bytes:
                break
    if bad:
        store.put(f"bad/{name}", "".join(f"{row.to_json()}\n" for row in bad).encode())
    known = known_division(config, shard)
    words: Words = {**scanner.dictionaries, **derived.dictionaries}
    values = {n: ColumnValues(w.values(), w.hashes(), _NO_COUNTS) for n, w in words.items()}
    assigner = None if known is None else known.shard(0)
    return {
        "name": name,
        "bytes": taken,
        "tally": tally.to_json(),
        "bad": len(bad),
        "reasons": Counter(row.reason for row in bad),
        **_count(plan, name, assigner, values, f"values/{name}"),
    }


def _parsed(
    config: PreprocessConfig, raw: Raw, scanner: Scanner
) -> tuple[LocalRows, list[BadRow], int]:
    """Rows of a block, those that were left out, and its bytes as they are stored."""
    lenient = config.bad_rows.policy == "quarantine"
    if isinstance(raw, Block):
        good, bad = clean(raw, [], config) if lenient else (raw, [])
        return scanner.scan_table(good), bad, raw.consumed
    text, names = raw
    rows = scanner.scan(text, names)
    if rows is not None:
        return rows, [], text.consumed
    if not lenient:
        return scanner.scan_table(parse_block(text, names, config)), [], text.consumed
    good, bad = clean(text, names, config)
    return scanner.scan_table(good), bad, text.consumed


def _count(
    plan: Plan,
    name: str,
    assigner: Assigner | None,
    values: Mapping[str, ColumnValues],
    out: str,
) -> Summary:
    """Counts values and numbers of a section's training rows; of all while they are not known.

    Also how many rows of each split there are, by index into SPLITS; None while it is not known.
    """
    config, store = plan.config, plan.work.store
    numbers = NumberStatistics(config)
    rows_of = np.zeros(len(SPLITS), np.int64)
    positives_of = np.zeros(len(SPLITS), np.int64)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in values}
    for rows in read_coded(store, coded_name(name)):
        train = None
        if assigner is not None:
            chosen = split_of(assigner, rows)
            train = chosen == 0
            rows_of += np.bincount(chosen, minlength=len(SPLITS))
            positives_of += np.bincount(chosen[rows.label != 0], minlength=len(SPLITS))
            train = None if train.all() else train
        numbers.add(rows.numbers, train)
        for field, found in parts.items():
            found.append(_train_codes(rows, field, train))
    for field, found in parts.items():
        column, codes = values[field], np.concatenate([np.empty(0, np.int8), *found])
        # place 0 is that of code −1, no value
        codes = codes.astype(np.int64) + 1
        column.counts = np.bincount(codes, minlength=len(column.values) + 1)[1:]
    known = assigner is not None
    return {
        "values": asdict(write_values(store, out, values)),
        "numbers": numbers.summary(),
        "rows": rows_of.tolist() if known else None,
        "positives": positives_of.tolist() if known else None,
    }


def _train_codes(rows: LocalRows, name: str, train: np.ndarray | None) -> np.ndarray:
    if name not in rows.lists:
        return rows.local_ids[name] if train is None else rows.local_ids[name][train]
    ends, codes = rows.lists[name]
    codes = codes[ends[0] : ends[-1]]
    return codes if train is None else codes[np.repeat(train, np.diff(ends))]


def coded_name(name: str) -> str:
    """Where a section's coded rows are."""
    return f"scan/{name}.arrow"
