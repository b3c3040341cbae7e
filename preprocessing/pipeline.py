"""Turns a raw log into a data set, in passes over shards that each write what the next one reads.

    scan        parses the log once: rows with local ids, and the distinct values of each shard
    count       counts again where all shards together decide which rows are for training
    vocabulary  merges the shards' values by groups that fit one process, and assigns ids
    write       encodes the rows into the Parquet files of the splits, shuffled if asked for
    report      report.json and report.html

Shards depend on the files and the config alone, and results are merged in their order, so the same
log gives the same bytes for any number of workers. Every task leaves a mark in the work directory:
the same command resumes an interrupted run.
"""

import itertools
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ctrdist.data.manifest import MANIFEST_NAME, SCHEMA_NAME, SPLITS, Manifest, Split, open_dataset
from ctrdist.errors import DataError, UserError
from ctrdist.features.fitted import FEATURES_NAME, FittedFeatures
from ctrdist.schema import Schema
from ctrdist.storage import is_storage_error
from preprocessing.config.checks import check_config
from preprocessing.config.rows import SampleConfig
from preprocessing.config.settings import PreprocessConfig
from preprocessing.runtime.errors import RESUME, storage_failure
from preprocessing.runtime.task_pool import TaskPool
from preprocessing.runtime.task_runner import Call, TaskRunner
from preprocessing.runtime.work_dir import WorkDir, digest
from preprocessing.scan.task import (
    Plan,
    ShardSummary,
    count_training_rows,
    scan,
    scan_mark,
)
from preprocessing.sources.reader import with_matched_columns
from preprocessing.sources.shards import InputSplit, find_input_splits, text_bytes, versions
from preprocessing.sources.side_tables import load_side_tables, side_table_versions
from preprocessing.split.plan import SplitPlan
from preprocessing.statistics.numeric import NumberStatistics
from preprocessing.vocabulary.parent import Parent, open_parent
from preprocessing.vocabulary.task import make_vocabularies, rules_of
from preprocessing.write.output_dir import QUARANTINE, SOURCE, Output
from preprocessing.write.report import write_report
from preprocessing.write.task import Part, write_data

logger = logging.getLogger(__name__)
_EXAMPLES = 3
LOCAL_BYTES = 2**28
"""Largest log, as text, that is read without Ray: the start of Ray takes longer than reading it,
and each task gets its own copy of what tasks share."""
KEPT_AFTER_S = 60.0
"""Seconds after which the work of a run that ends with a user's error is kept for resuming."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished data set."""

    output: str
    """The data set's directory."""
    manifest: Manifest
    vocabulary: Mapping[str, int]
    """Categorical field → size of its vocabulary, padding and unknown included."""
    seconds: float = 0.0
    """From the first look at the input to the manifest, without the start of Ray."""
    quarantined: int = 0
    """Rows that were left out."""
    unchanged: bool = False
    """The same data set was there already."""
    passes: Mapping[str, float] = field(default_factory=dict)
    """Seconds of each pass."""

    @property
    def rows(self) -> int:
        """Rows of all splits."""
        return sum(s.rows for s in self.manifest.splits.values())

    @property
    def rows_per_s(self) -> float:
        """Rows per second."""
        return self.rows / self.seconds


@dataclass(frozen=True)
class Checked:
    """A data set to be made, whose settings and files were checked."""

    config: PreprocessConfig
    """With absolute local paths."""
    inputs: list[InputSplit]
    source: dict[str, Any]
    """Hashes of the settings, files (side tables included) and parent."""
    output: Output


def check(config: PreprocessConfig) -> Checked:
    """Finds the input and checks all that can be checked without reading rows; changes nothing.

    Raises:
        DataError: inputs or side tables that do not exist, or an output that may not be written.
        ConfigError: settings that conflict.
    """
    check_config(config)
    if not config.output:
        raise DataError("no output: give --output a directory.")
    config = _with_absolute_paths(config)
    inputs, output = find_input_splits(config), Output(config.output)
    config = with_matched_columns(config, inputs)
    check_config(config)
    rules_of(config)
    source = _source(config, inputs)
    if not output.was_made_of(source):
        output.check(overwrite=config.overwrite)
    return Checked(config, inputs, source, output)


def preprocess(config: PreprocessConfig, connect: Callable[[], None] | None = None) -> Result:
    """Writes the data set, resumes an earlier run of the same config and files, or finds it there.

    `connect` connects to Ray, and is only called if there is more to do than some processes of this
    machine do in the meantime; without it, Ray must be connected.

    Raises:
        DataError: input that differs from what the config says, or an output that may not be
            written. The work directory is kept, unless this is bad input that was found soon.
    """
    start = time.monotonic()
    checked = check(config)
    config, output, source = checked.config, checked.output, checked.source
    work = _work_dir(config, output)
    if output.was_made_of(source):
        work.remove()
        there = open_dataset(config.output)
        result = _result(config, there.manifest, there.schema)
        return replace(result, seconds=time.monotonic() - start, unchanged=True)
    before = time.monotonic()
    pool = _open_pool(checked, connect)
    start += time.monotonic() - before
    parent = open_parent(config)
    lease = output.lease()
    runner: TaskRunner | None = None
    resumed = False
    try:
        resumed = work.open({key: source[key] for key in ("config", "parent")})
        runner = TaskRunner(work, pool, source["files"])
        if resumed and runner.done:
            logger.warning("resuming: %d tasks of an earlier run are done", len(runner.done))
        result = _Run(config, output, work, parent, runner).passes(checked.inputs)
        output.store.put(SOURCE, json.dumps(source).encode())
        output.store.put(MANIFEST_NAME, result.manifest.to_json().encode())
    except BaseException as error:
        soon = runner is None or time.monotonic() - start < KEPT_AFTER_S
        if isinstance(error, UserError) and soon and not resumed:
            if runner is not None and runner.mark("begin") in work.marks():
                output.clear()
            work.remove()
            lease.release()
            output.store.remove_empty()
            raise
        lease.stop()
        done = "" if runner is None else runner.done_so_far()
        if isinstance(error, DataError):
            raise DataError(f"{error} {done}Then {RESUME}") from None
        if isinstance(error, Exception) and is_storage_error(error):
            raise storage_failure(error, config.output, done) from None
        raise
    finally:
        pool.close()
    lease.release()
    work.remove()
    return replace(result, seconds=time.monotonic() - start, passes=runner.seconds)


def _open_pool(checked: Checked, connect: Callable[[], None] | None) -> TaskPool:
    """Opens the pool for some input; without `connect` Ray is connected and is to be used."""
    workers = checked.config.workers
    if connect is not None:
        size = text_bytes(checked.inputs, checked.config)
        if size <= LOCAL_BYTES and not os.environ.get("RAY_ADDRESS"):
            from preprocessing.runtime.local_pool import LocalPool

            return LocalPool(workers)
        connect()
    from preprocessing.runtime.ray_pool import RayPool

    return RayPool(workers)


@dataclass(frozen=True)
class _Run:
    config: PreprocessConfig
    output: Output
    work: WorkDir
    parent: Parent | None
    runner: TaskRunner

    def passes(self, inputs: list[InputSplit]) -> Result:
        """Runs all passes; writes everything but the manifest."""
        config, runner = self.config, self.runner
        plan = Plan(config, load_side_tables(config), self.work)
        shared = runner.pool.share(plan)
        shards = self._scan(plan, shared, inputs)
        reasons = self._check_bad_rows(shards)
        rows = sum(shard.split_counts.rows for shard in shards)
        if not rows:
            left_out = sum(shard.left_out for shard in shards)
            why = "all files are empty. Give files with rows."
            if left_out:
                why = f"none of {left_out:,} rows meets the conditions of `where`. Correct them."
            raise DataError(f"{self._inputs}: no rows; {why}")
        counts, names = [s.split_counts for s in shards], [s.split for s in shards]
        split_plan = SplitPlan.of(config.split, counts, names, config.sample)
        shards = self._count(shared, shards, split_plan)
        if not sum(shard.training_rows for shard in shards):
            raise DataError(
                f"{self._inputs}: none of the {rows:,} rows is for training. Give more rows, or "
                "change `split` in the data-set YAML."
            )
        if runner.mark("begin") not in runner.done:
            self.output.clear()  # only now: all rows are checked, and the old data set was whole
            self.work.mark(runner.mark("begin"), None)
        data, work = self.output.store, self.work.store
        values = [shard.values for shard in shards]
        vocabularies, shard_ids = make_vocabularies(config, values, self.parent, data, work, runner)
        fitted = FittedFeatures(
            columns=config.all_columns,
            crosses=tuple(config.crosses),
            numeric_as=config.numeric_as,
            missing=tuple(config.format.missing),
            sizes={name: found.size for name, found in vocabularies.items()},
            transforms=self._transforms(shards),
        )
        parts, profile = write_data(
            config, shards, split_plan, fitted, shard_ids, self.output, self.work, runner
        )
        schema = fitted.schema(config.name)
        data.put(SCHEMA_NAME, schema.to_json().encode())
        data.put(FEATURES_NAME, fitted.to_json().encode())
        manifest = Manifest(
            schema_fingerprint=schema.fingerprint,
            splits=_splits(parts, config.sample, schema),
            vocabularies={name: found.sha256 for name, found in vocabularies.items()},
            config=config.for_manifest(),
            transforms=fitted.transforms,
            parent=None if self.parent is None else self.parent.fingerprint,
        )
        bad = [shard.name for shard in shards if shard.bad_rows]
        for number, name in enumerate(bad):
            data.put(f"{QUARANTINE}/part-{number:05d}.jsonl", work.get(f"bad/{name}"))
        write_report(data, config, schema, manifest, profile, shards, plan.side_tables)
        return replace(_result(config, manifest, schema), quarantined=sum(reasons.values()))

    @property
    def _inputs(self) -> str:
        return ", ".join(self.config.input)

    def _scan(self, plan: Plan, shared: Any, inputs: list[InputSplit]) -> list[ShardSummary]:
        """The shards in the order of the log."""
        calls = [
            Call(scan_mark(plan, index, one), one.name, (shared, index, one))
            for index, one in enumerate(inputs)
        ]
        total = sum(one.bytes for one in inputs)
        scans = self.runner.run("reading", scan, calls, list[ShardSummary], total)
        return list(itertools.chain(*scans))

    def _count(
        self, shared: Any, shards: list[ShardSummary], split_plan: SplitPlan
    ) -> list[ShardSummary]:
        """The shards with the counts of their training rows."""
        done, calls = dict(enumerate(shards)), {}
        for k, shard in enumerate(shards):
            if shard.rows is None and split_plan.all_train(k):  # all its rows were counted
                done[k] = replace(shard, rows=[shard.split_counts.rows, 0, 0])
            elif shard.rows is None:
                arguments = (shared, k, split_plan, shard)
                calls[k] = self.runner.call(f"count-{shard.name}", shard.name, *arguments)
        counted = self.runner.run("counting", count_training_rows, [*calls.values()], ShardSummary)
        return [*(done | dict(zip(calls, counted, strict=True))).values()]

    def _transforms(self, shards: list[ShardSummary]) -> dict[str, Any]:
        """Parameters of the numeric transforms: the parent's, or fitted to the training rows."""
        if self.parent is not None:
            return dict(self.parent.transforms)
        numbers = NumberStatistics.empty(self.config)
        for shard in shards:
            if shard.training_rows:
                numbers.merge(shard.numbers)
        return numbers.fit(self.config)

    def _check_bad_rows(self, shards: list[ShardSummary]) -> Counter[str]:
        """Reason → rows that were left out for it.

        Raises:
            DataError: more rows than the limit allows.
        """
        reasons: Counter[str] = Counter()
        for shard in shards:
            reasons.update(shard.bad_rows)
        bad, limit = sum(reasons.values()), self.config.bad_rows.limit
        rows = sum(shard.split_counts.rows + shard.left_out for shard in shards) + bad
        if bad > limit * rows:
            shown = ", ".join(f"{reason} ({n:,})" for reason, n in reasons.most_common(_EXAMPLES))
            first = next(shard.name for shard in shards if shard.bad_rows)
            example = self.work.store.get(f"bad/{first}").decode().splitlines()[0]
            raise DataError(
                f"{bad:,} of {rows:,} rows are bad, more than bad_rows.limit ({limit:g}) allows: "
                f"{shown}. The first is {example[:500]}. Correct `columns` or `format` in the "
                "data-set YAML, or raise the limit."
            )
        return reasons


def _splits(parts: list[Part], sample: SampleConfig, schema: Schema) -> dict[str, Split]:
    found = {}
    for name in SPLITS:
        mine = [part for part in parts if part.split == name]
        found[name] = Split(
            files=tuple(part.file for part in mine),
            rows=sum(part.file.rows for part in mine),
            positives=sum(part.totals.positives for part in mine),
            negatives_kept=sample.share(name),
            weight=sum(part.totals.weight for part in mine) if schema.weight else None,
            labels={
                label: sum(part.totals.labels.get(label, 0) for part in mine)
                for label in schema.labels[1:]
            },
        )
    return found


def _result(config: PreprocessConfig, manifest: Manifest, schema: Schema) -> Result:
    sizes = {field.name: field.vocabulary_size for field in schema.categorical}
    return Result(output=config.output, manifest=manifest, vocabulary=sizes)


def _source(config: PreprocessConfig, inputs: list[InputSplit]) -> dict[str, Any]:
    """Hashes of the settings, files (side tables included) and parent of a data set."""
    return {
        "config": digest(config.for_manifest()),
        "files": digest([*versions(inputs, config), *side_table_versions(config)]),
        "parent": config.parent and open_dataset(config.parent).manifest.fingerprint,
    }


def _with_absolute_paths(config: PreprocessConfig) -> PreprocessConfig:
    """The config with absolute local paths: a worker may have another working directory."""
    given = {name: getattr(config, name) for name in ("output", "work", "parent")}
    paths = {n: os.path.abspath(p) for n, p in given.items() if p and "://" not in p}
    return replace(config, **paths)


def _work_dir(config: PreprocessConfig, output: Output) -> WorkDir:
    if not config.work:
        return WorkDir(output.work)
    return WorkDir(f"{config.work.rstrip('/')}/{digest(config.output)}")
