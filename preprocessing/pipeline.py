"""Raw log → data set, in three passes over the shards: count rows, learn vocabularies, encode.

Ray must be connected. The shards depend on the files and on the config only, and results are merged
in their order: the same log gives the same bytes for any number of workers.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

import ray

from ctrdist.data.manifest import SCHEMA_NAME, SPLITS, Manifest, Split
from ctrdist.errors import DataError
from preprocessing import split, tasks
from preprocessing.config import PreprocessConfig
from preprocessing.encode import schema_of
from preprocessing.inputs import Shard, find_beside, find_shards
from preprocessing.joins import load_sides
from preprocessing.output import VOCABULARY, Output
from preprocessing.progress import Progress
from preprocessing.statistics import Counts, Encoding, learn

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was written."""

    output: str
    """The data set's directory."""
    manifest: Manifest
    vocabulary: Mapping[str, int]
    """Categorical field → size of its vocabulary, padding and unknown included."""
    seconds: float
    """From the first look at the input to the manifest; Ray's start is not in it."""

    @property
    def rows(self) -> int:
        """Of all splits."""
        return sum(s.rows for s in self.manifest.splits.values())

    @property
    def rows_per_s(self) -> float:
        """Rows over seconds."""
        return self.rows / self.seconds


def check(config: PreprocessConfig) -> list[Shard]:
    """Everything that can be told without reading rows; changes nothing.

    Raises:
        DataError: inputs or joined tables that do not exist, or an output that may not be written.
    """
    if not config.output:
        raise DataError("no output: give --output a directory.")
    shards = find_shards(config)
    for join in config.joins:
        find_beside(join.file, config)
    Output(config.output).check(overwrite=config.overwrite)
    return shards


def preprocess(config: PreprocessConfig) -> Result:
    """Writes the data set.

    Raises:
        DataError: input that is not as the config says, or an output that may not be written. What
            this run had
            written by then is removed.
    """
    start = time.monotonic()
    shards = check(config)
    output = Output(config.output)
    plan = tasks.Plan(config, load_sides(config))
    plan, firsts = _place(plan, shards)
    counts = _scan(plan, shards, firsts)
    total = _sum(counts)
    _refuse_empty(total, config)
    encoding = learn(total, config)
    try:
        # Only now: all rows have been checked, and a data set that is replaced stayed whole so far.
        output.begin()
        splits = _write(plan, encoding, output, shards, firsts, counts)
        manifest = _describe(config, encoding, output, splits)
        output.finish(manifest.to_json())
    except BaseException:
        output.abandon()
        raise
    sizes = {f.name: f.vocabulary_size for f in schema_of(config, encoding).categorical}
    return Result(
        output=config.output, manifest=manifest, vocabulary=sizes, seconds=time.monotonic() - start
    )


def _place(plan: tasks.Plan, shards: list[Shard]) -> tuple[tasks.Plan, list[int]]:
    """The place in the log of each shard's first row, where the split depends on it."""
    if plan.config.split.by != "position":
        return plan, [0] * len(shards)
    shared = ray.put(plan)
    with Progress("1/3 rows", _bytes(shards)) as progress:
        rows = tasks.run_all(
            tasks.count, [(shared, s) for s in shards], progress, plan.config.workers
        )
    firsts = [0, *itertools.accumulate(rows)]
    edges = split.bounds(plan.config.split, firsts[-1])
    return tasks.Plan(plan.config, plan.sides, edges), firsts[:-1]


def _scan(plan: tasks.Plan, shards: list[Shard], firsts: list[int]) -> list[Counts]:
    shared = ray.put(plan)
    calls = [(shared, shard, first) for shard, first in zip(shards, firsts, strict=True)]
    with Progress("2/3 vocabularies", _bytes(shards)) as progress:
        return tasks.run_all(tasks.scan, calls, progress, plan.config.workers)


def _write(
    plan: tasks.Plan,
    encoding: Encoding,
    output: Output,
    shards: list[Shard],
    firsts: list[int],
    counts: list[Counts],
) -> dict[str, Split]:
    shared, learned, target = ray.put(plan), ray.put(encoding), ray.put(output)
    numbers = {name: itertools.count() for name in SPLITS}
    calls = []
    for shard, first, counted in zip(shards, firsts, counts, strict=True):
        filled = [name for name, rows in zip(SPLITS, counted.rows, strict=True) if rows]
        names = {name: f"{name}/part-{next(numbers[name]):05d}.parquet" for name in filled}
        calls.append((shared, learned, target, shard, first, names))
    with Progress("3/3 encoding", _bytes(shards)) as progress:
        results = tasks.run_all(tasks.write, calls, progress, plan.config.workers)
    for shard, counted, parts in zip(shards, counts, results, strict=True):
        if sum(p.file.rows for p in parts) != counted.rows.sum():
            raise DataError(
                f"{shard.name}: changed while it was read. Start again when it is complete."
            )
    splits = {}
    for name in SPLITS:
        mine = [part for parts in results for part in parts if part.split == name]
        files = tuple(part.file for part in mine)
        splits[name] = Split(
            files=files, rows=sum(f.rows for f in files), positives=sum(p.positives for p in mine)
        )
    return splits


def _describe(
    config: PreprocessConfig, encoding: Encoding, output: Output, splits: dict[str, Split]
) -> Manifest:
    """Writes vocabularies and schema; returns the manifest that has yet to be written."""
    vocabularies = {
        name: output.write_table(f"{VOCABULARY}/{name}.parquet", table)
        for name, table in encoding.vocabularies.items()
    }
    schema = schema_of(config, encoding)
    output.write_text(SCHEMA_NAME, schema.to_json())
    return Manifest(
        schema_fingerprint=schema.fingerprint,
        splits=splits,
        vocabularies=vocabularies,
        config=config.for_manifest(),
    )


def _sum(counts: list[Counts]) -> Counts:
    total = Counts()
    for counted in counts:
        total.merge(counted)
    return total


def _refuse_empty(total: Counts, config: PreprocessConfig) -> None:
    if total.rows.sum() == 0:
        raise DataError(f"{', '.join(config.input)}: no rows; all files are empty.")
    if total.rows[0] == 0:
        raise DataError(
            f"{', '.join(config.input)}: none of the {total.rows.sum():,} rows is for training. "
            "Give more rows, or change `split` in the data-set YAML."
        )


def _bytes(shards: list[Shard]) -> int:
    return sum(shard.end - shard.start for shard in shards)
