"""The scan passes: a shard's rows with local ids, its distinct values, and its counts.

Each task yields a :class:`Step` after each block, and its result last. It may be killed at any
moment and run again: it writes the same files.
"""

import itertools
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ctrdist.data.manifest import SPLITS
from ctrdist.features.encode import LocalRows
from ctrdist.native.strings import Dictionary
from preprocessing.config.settings import PreprocessConfig
from preprocessing.runtime.task_runner import Step
from preprocessing.runtime.work_dir import WorkDir, digest
from preprocessing.scan.derived_features import DerivedFeatures
from preprocessing.scan.scan_file import new_scan_file, read_scan_file
from preprocessing.scan.scanner import Scanner
from preprocessing.scan.shard_values import ColumnValues, ValuesIndex, read_values, write_values
from preprocessing.sources.quarantine import BadRow, clean
from preprocessing.sources.reader import RawBlock, read_raw_blocks
from preprocessing.sources.shards import InputSplit, versions
from preprocessing.sources.side_tables import Matches, SideTable
from preprocessing.split.plan import LEFT_OUT, Assigner, SplitCounts, SplitPlan
from preprocessing.statistics.numeric import NumberStatistics

Words = Mapping[str, Dictionary]
_FULL = 1.5
"""A shard is full with this many times shard_bytes, so that an uncompressed input split has one."""
_NO_COUNTS = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Plan:
    """Arguments that all scan tasks share."""

    config: PreprocessConfig
    side_tables: Sequence[SideTable]
    work: WorkDir


@dataclass(frozen=True)
class ShardSummary:
    """A shard, as the later passes need it."""

    name: str
    """Name of its files in the work directory."""
    bytes: int
    """Its size in the log, without compression."""
    split_counts: SplitCounts
    bad_rows: dict[str, int]
    """Reason → rows that were left out for it."""
    values: ValuesIndex
    """Its distinct values, with counts of training rows, or of all rows while these are unknown."""
    numbers: NumberStatistics
    """Statistics of the same rows."""
    rows: list[int] | None
    """Rows of each of SPLITS, without those that were not drawn; None while unknown."""
    split: str | None
    """The split of all its rows, where whole files are assigned to splits."""
    matches: list[Matches] = field(default_factory=list)
    """Rows that each side table was joined to."""
    left_out: int = 0
    """Rows that do not meet the conditions of `where`."""

    @property
    def training_rows(self) -> int:
        """Rows for training, once they are known."""
        return 0 if self.rows is None else self.rows[0]


def scan(plan: Plan, index: int, split: InputSplit) -> Iterator[Step | list[ShardSummary]]:
    """Parses an input split once.

    One that turns out to be much larger than planned, as a compressed file may, becomes several
    shards: no task ever holds more than one.
    """
    shards: list[ShardSummary] = []
    blocks = read_raw_blocks(split, plan.config)
    while True:
        name = f"{index:05d}-{len(shards):04d}"
        summary = yield from _scan_shard(plan, name, split, blocks)
        if summary is None:
            break
        shards.append(summary)
    yield shards


def scan_mark(plan: Plan, index: int, split: InputSplit) -> str:
    """The mark of the scan of an input split, which changes with its files and side tables."""
    seen = [*versions([split], plan.config), *(side.version for side in plan.side_tables)]
    return f"scan-{index:05d}-{digest(seen)}"


def count_training_rows(
    plan: Plan, index: int, split_plan: SplitPlan, shard: ShardSummary
) -> ShardSummary:
    """Counts the training rows of a shard of this index, once the split plan is known."""
    values = read_values(plan.work.store, shard.values)
    assigner = Assigner(split_plan, index)
    found, numbers, rows = _count(plan, shard.name, assigner, values, f"counted/{shard.name}")
    return replace(shard, values=found, numbers=numbers, rows=rows)


def known_split_plan(config: PreprocessConfig, part: InputSplit) -> SplitPlan | None:
    """The split plan of an input split, where it does not depend on others."""
    split = config.split
    alone = part.split is not None or split.by == "hash" or (split.by == "time" and split.times)
    if not alone or config.sample.draws:  # a draw needs the row's index in the whole log
        return None
    return SplitPlan.of(split, [SplitCounts()], [part.split])


def _scan_shard(
    plan: Plan, name: str, split: InputSplit, blocks: Iterator[RawBlock]
) -> Generator[Step, None, ShardSummary | None]:
    """Scans blocks until the shard is full; returns None where there are no more."""
    config, store = plan.config, plan.work.store
    first = next(blocks, None)
    if first is None:
        return None
    scanner, derived = Scanner(config, plan.side_tables), DerivedFeatures(config)
    counts, bad, taken = SplitCounts.empty(config.split), list[BadRow](), 0
    with new_scan_file(store, scan_file_name(name)) as write:
        for raw in itertools.chain([first], blocks):
            rows, found = _parsed(config, raw, scanner)
            derived.add(rows, scanner.dictionaries)
            counts.add(rows)
            write(rows)
            bad += found
            taken += raw.size
            yield Step(len(rows.label) + len(found), raw.consumed)
            if taken >= _FULL * config.shard_bytes:
                break
    if bad:
        store.put(f"bad/{name}", "".join(f"{row.to_json()}\n" for row in bad).encode())
    known = known_split_plan(config, split)
    words: Words = {**scanner.dictionaries, **derived.dictionaries}
    values = {n: ColumnValues(w.values(), w.hashes(), _NO_COUNTS) for n, w in words.items()}
    assigner = None if known is None else Assigner(known, 0)
    index, numbers, rows_of = _count(plan, name, assigner, values, f"values/{name}")
    reasons = Counter(row.reason for row in bad)
    return ShardSummary(
        *(name, taken, counts, reasons, index, numbers, rows_of, split.split),
        matches=scanner.matches,
        left_out=scanner.left_out,
    )


def _parsed(
    config: PreprocessConfig, raw: RawBlock, scanner: Scanner
) -> tuple[LocalRows, list[BadRow]]:
    """The rows of a block, and those that were left out."""
    rows = scanner.scan(raw)
    if rows is not None:
        return rows, []
    if config.bad_rows.policy == "fail":
        return scanner.scan_table(raw.parse()), []
    good, bad = clean(raw, config)
    return scanner.scan_table(good), bad


def _count(
    plan: Plan,
    name: str,
    assigner: Assigner | None,
    values: Mapping[str, ColumnValues],
    out: str,
) -> tuple[ValuesIndex, NumberStatistics, list[int] | None]:
    """Counts the values and numbers of a shard's training rows; of all rows without an assigner.

    Returns:
        The values, written to `out`; the statistics of the numbers; and the rows of each split,
        None without an assigner.
    """
    config, store = plan.config, plan.work.store
    numbers = NumberStatistics.empty(config)
    rows_of = np.zeros(len(SPLITS), np.int64)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in values}
    for rows in read_scan_file(store, scan_file_name(name)):
        train = None
        if assigner is not None:
            chosen = assigner.next(rows)
            train = chosen == 0
            rows_of += np.bincount(chosen - LEFT_OUT, minlength=len(SPLITS) + 1)[1:]
            train = None if train.all() else train
        numbers.add(rows.numbers, train, config)
        for name_of, found in parts.items():
            found.append(_train_ids(rows, name_of, train))
    for name_of, found in parts.items():
        column, local_ids = values[name_of], np.concatenate([np.empty(0, np.int8), *found])
        shifted = local_ids.astype(np.int64) + 1  # local id −1 stands for no value
        column.counts = np.bincount(shifted, minlength=len(column.values) + 1)[1:]
    index = write_values(store, out, values)
    return index, numbers, None if assigner is None else rows_of.tolist()


def _train_ids(rows: LocalRows, name: str, train: np.ndarray | None) -> np.ndarray:
    if name not in rows.lists:
        return rows.local_ids[name] if train is None else rows.local_ids[name][train]
    ends, local_ids = rows.lists[name]
    local_ids = local_ids[ends[0] : ends[-1]]
    return local_ids if train is None else local_ids[np.repeat(train, np.diff(ends))]


def scan_file_name(name: str) -> str:
    """Name of the file with a shard's rows."""
    return f"scan/{name}.arrow"
