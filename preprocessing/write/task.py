"""The write passes: from rows with local ids to the Parquet files of the splits."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from ctrdist.data.manifest import SPLITS, DataFile
from ctrdist.features.columns import has_vocabulary, is_quantile
from ctrdist.features.encode import arrow_schema, encode
from ctrdist.features.fitted import FittedFeatures
from ctrdist.schema import Schema
from ctrdist.storage import Store
from preprocessing.config.settings import PreprocessConfig
from preprocessing.runtime.parquet_writer import ParquetWriter, new_parquet_file
from preprocessing.runtime.task_runner import Step, TaskRunner
from preprocessing.runtime.work_dir import WorkDir, from_json, to_json
from preprocessing.scan.scan_file import read_scan_file
from preprocessing.scan.shard_values import ValuesIndex
from preprocessing.scan.task import ShardSummary, scan_file_name
from preprocessing.split.plan import LEFT_OUT, Assigner, SplitPlan
from preprocessing.statistics.profile import Profile
from preprocessing.vocabulary.assign_ids import ShardIds, hashed_id_table, id_tables
from preprocessing.write.output_dir import Output
from preprocessing.write.shuffle import (
    ROW_INDEX,
    Scattered,
    bucket_ranges,
    gather,
    num_buckets,
    scatter,
)

TRAIN = SPLITS[0]
PROFILES_PER_TASK = 64
"""Profiles that one process merges."""


@dataclass(frozen=True)
class Part:
    """A file of a split."""

    split: str
    file: DataFile
    totals: "Totals"


@dataclass
class Totals:
    """Sums over the rows of a file."""

    positives: int = 0
    """Rows with label 1."""
    weight: float = 0.0
    """Sum of the rows' weights, where they have any."""
    labels: dict[str, int] = field(default_factory=dict)
    """Further label → rows where it is 1."""

    def add(self, table: pa.Table, schema: Schema) -> None:
        """Adds rows as they are stored."""
        self.positives += _ones(table, schema.label)
        if schema.weight:
            self.weight += float(table.column(schema.weight).to_numpy().sum(dtype=np.float64))
        for name in schema.labels[1:]:
            self.labels[name] = self.labels.get(name, 0) + _ones(table, name)


def _ones(table: pa.Table, label: str) -> int:
    return int(np.count_nonzero(table.column(label).to_numpy()))


@dataclass
class WrittenShard:
    """Files with the rows of one shard."""

    parts: list[Part]
    offsets: np.ndarray | None = None
    """See :func:`scatter`; None where training rows keep their order."""


@dataclass(frozen=True)
class Writing:
    """Arguments that all tasks of the write passes share."""

    config: PreprocessConfig
    work: WorkDir
    output: Output
    split_plan: SplitPlan
    fitted: FittedFeatures
    shard_ids: Sequence[ShardIds]
    buckets: int
    """Number of buckets to which training rows are scattered; 0: they keep their order."""

    @property
    def schema(self) -> Schema:
        """Schema of the data set."""
        return self.fitted.schema(self.config.name)

    def new_profile(self) -> Profile:
        """The profile of no rows."""
        hashed = [c.name for c in self.config.categorical if not has_vocabulary(c)]
        return Profile.empty(self.schema, [*hashed, *(c.name for c in self.config.crosses)])


def write_data(
    config: PreprocessConfig,
    shards: Sequence[ShardSummary],
    split_plan: SplitPlan,
    fitted: FittedFeatures,
    shard_ids: Sequence[ShardIds],
    output: Output,
    work: WorkDir,
    runner: TaskRunner,
) -> tuple[list[Part], Profile]:
    """Writes the files of all splits, and returns them with the profile of their rows.

    `shards` are in the order of the log, with their counts.
    """
    raw = sum(shard.bytes for shard in shards)
    buckets = num_buckets(raw) if config.shuffle else 0
    writing = Writing(config, work, output, split_plan, fitted, shard_ids, buckets)
    shared = runner.pool.share(writing)
    numbers = {name: itertools.count() for name in SPLITS}
    calls = []
    for index, shard in enumerate(shards):
        assert shard.rows is not None
        filled = [name for name, rows in zip(SPLITS, shard.rows, strict=True) if rows]
        files = {n: _file(n, next(numbers[n])) for n in filled if n != TRAIN or not buckets}
        arguments = (shared, index, shard.name, shard.values, shard.bytes, files)
        calls.append(runner.call(f"write-{shard.name}", shard.name, *arguments))
    written = runner.run("writing", write_shard, calls, WrittenShard, raw)
    parts = [part for shard in written for part in shard.parts]
    profile = _merged_profile(writing, [_profile_file(shard.name) for shard in shards], runner)
    if buckets:
        names = [_scatter_file(shard.name) for shard in shards]
        offsets = np.stack([one.offsets for one in written if one.offsets is not None])
        parts = _gathered(shared, Scattered(names, offsets), buckets, runner) + parts
    return parts, profile


def write_shard(
    writing: Writing, shard: int, name: str, values: ValuesIndex, size: int, files: dict[str, str]
) -> Iterator[Step | WrittenShard]:
    """Encodes a shard, which takes `size` bytes of the log.

    `files` has the name of a file for each split of which the shard has rows; it lacks train where
    training rows are scattered.
    """
    config, store = writing.config, writing.work.store
    target = arrow_schema(writing.schema)
    tables = _id_tables(writing, shard, values)
    assigner = Assigner(writing.split_plan, shard)
    profile = writing.new_profile()
    first, end = writing.split_plan.rows[shard : shard + 2]
    total, totals = end - first, {split: Totals() for split in files}
    parts: dict[str, ParquetWriter] = {}
    scattered: list[pa.Table] = []
    with ExitStack() as stack:
        for split, file in files.items():
            new = new_parquet_file(writing.output.store, file, target, config.row_group_size)
            parts[split] = stack.enter_context(new)
        for rows in read_scan_file(store, scan_file_name(name)):
            chosen = assigner.next(rows)
            n, index = len(chosen), first + np.arange(len(chosen))
            first += n
            kept = chosen != LEFT_OUT
            if not kept.all():
                rows, chosen, index = rows.filter(kept), chosen[kept], index[kept]
            encoded = encode(rows, tables, writing.fitted, target)
            profile.add(chosen, rows, encoded, index)
            for found in np.unique(chosen):
                mask, split = chosen == found, SPLITS[found]
                mine = encoded.table if mask.all() else encoded.table.filter(pa.array(mask))
                if split == TRAIN and writing.buckets:
                    scattered.append(mine.append_column(ROW_INDEX, pa.array(index[mask])))
                    continue
                parts[split].write(mine)
                totals[split].add(mine, writing.schema)
            yield Step(n, size * n // max(1, total))
    result = WrittenShard([_part(s, files[s], part, totals[s]) for s, part in parts.items()])
    store.put(_profile_file(name), to_json(profile))
    if writing.buckets:
        scatter_file, seed = _scatter_file(name), config.split.seed
        result.offsets = scatter(store, scatter_file, scattered, target, writing.buckets, seed)
    yield result


def gather_buckets(writing: Writing, scattered: Scattered, buckets: range) -> list[Part]:
    """Writes one file of shuffled training rows for each of some buckets."""
    config, store = writing.config, writing.work.store
    target = arrow_schema(writing.schema)
    parts = []
    tables = gather(store, scattered, buckets, target, config.split.seed)
    for bucket, rows in zip(buckets, tables, strict=True):
        file = _file(TRAIN, bucket)
        with new_parquet_file(writing.output.store, file, target, config.row_group_size) as part:
            part.write(rows)
        totals = Totals()
        totals.add(rows, writing.schema)
        parts.append(_part(TRAIN, file, part, totals))
    return parts


def merge_profiles(store: Store, names: Sequence[str], out: str | None) -> Profile | None:
    """Merges profiles in the order of the log; writes the result, or returns it without `out`."""
    profile = from_json(Profile, store.get(names[0]))
    for name in names[1:]:
        profile.merge(from_json(Profile, store.get(name)))
    if out is None:
        return profile
    store.put(out, to_json(profile))
    return None


def _merged_profile(writing: Writing, names: list[str], runner: TaskRunner) -> Profile:
    """The profile of all rows; many are merged by tasks, so that no process reads them all."""
    store, level = writing.work.store, 0
    while len(names) > PROFILES_PER_TASK:
        groups = [names[k : k + PROFILES_PER_TASK] for k in range(0, len(names), PROFILES_PER_TASK)]
        names = [f"profile/level-{level}-{k:05d}" for k in range(len(groups))]
        calls = [
            runner.call(
                f"profile-{level}-{k:05d}",
                f"statistics, part {k + 1} of {len(groups)}",
                *(store, group, names[k]),
            )
            for k, group in enumerate(groups)
        ]
        runner.run("merging statistics", merge_profiles, calls, type(None))
        level += 1
    profile = merge_profiles(store, names, None)
    assert profile is not None
    return profile


def _gathered(shared: Any, scattered: Scattered, buckets: int, runner: TaskRunner) -> list[Part]:
    """Files of the shuffled training rows; buckets without rows have none."""
    reference = runner.pool.share(scattered)
    calls = [
        runner.call(
            f"gather-{some.start:05d}-{some.stop:05d}",
            f"shuffled rows, parts {some.start + 1} to {some.stop} of {buckets}",
            *(shared, reference, some),
        )
        for some in bucket_ranges(buckets, runner.pool.size)
    ]
    gathered = runner.run("shuffling", gather_buckets, calls, list[Part])
    return [part for parts in gathered for part in parts if part.file.rows]


def _id_tables(writing: Writing, index: int, values: ValuesIndex) -> dict[str, np.ndarray]:
    """Field → (local ids + 1,) int32: the ids of a shard's local ids; the last is for none."""
    store = writing.work.store
    tables = id_tables(store, values, index, writing.shard_ids)
    for column in writing.config.categorical:
        if column.encoding == "hash" and not is_quantile(column):
            assert column.num_buckets is not None
            tables[column.name] = hashed_id_table(store, values, column.name, column.num_buckets)
    return tables


def _part(split: str, name: str, written: ParquetWriter, totals: Totals) -> Part:
    groups = tuple(written.row_groups)
    return Part(split, DataFile(path=name, row_groups=groups, sha256=written.sha256), totals)


def _file(split: str, number: int) -> str:
    return f"{split}/part-{number:05d}.parquet"


def _profile_file(shard: str) -> str:
    return f"profile/{shard}"


def _scatter_file(shard: str) -> str:
    return f"scatter/{shard}"
