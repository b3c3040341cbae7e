"""Raw log → data set, in passes over its shards that each leave what the next one reads.

    scan      parses every shard once: coded rows, its distinct values with their counts
    count     counts again where only all shards together tell which rows are for training
    merge, number, assign    vocabularies, by groups that fit one process
    write     ids and numbers into the Parquet files of the splits
    gather    the training rows, where they are shuffled

Ray must be connected. Shards depend on the files and the config only, and results are merged in
their order: the same log gives the same bytes for any number of workers. Every task leaves a mark
in the work directory; a run that was cut off is gone on with by the same command.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray

from ctrdist.data.manifest import MANIFEST_NAME, SCHEMA_NAME, SPLITS, Manifest, Split, open_dataset
from ctrdist.errors import DataError, UserError
from ctrdist.features.fitted import FEATURES_NAME, FittedFeatures
from ctrdist.storage import is_storage_error
from preprocessing.config.settings import PreprocessConfig
from preprocessing.runtime.errors import GO_ON, done, explain
from preprocessing.runtime.task_runner import Runner
from preprocessing.runtime.work_dir import Work, digest
from preprocessing.scan import task as tasks
from preprocessing.scan.task import Plan, Summary
from preprocessing.sources.shards import Shard, find_beside, find_shards, versions
from preprocessing.sources.side_tables import load_sides
from preprocessing.split.plan import Division, Tally
from preprocessing.statistics.numeric import NumberStatistics
from preprocessing.vocabulary import vocabulary_pass
from preprocessing.vocabulary.parent import Parent, open_parent
from preprocessing.write import writing_pass
from preprocessing.write.output_dir import SOURCE, Output

logger = logging.getLogger(__name__)
_EXAMPLES = 3
KEPT_AFTER_S = 60.0
"""After bad input, what was done stays only where it took longer than this."""


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
    quarantined: int = 0
    """Rows that were left out."""
    unchanged: bool = False
    """Whether the same data set was there already."""
    passes: Mapping[str, float] = field(default_factory=dict)
    """Seconds of each pass."""

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
        ConfigError: settings that do not go together.
    """
    if not config.output:
        raise DataError("no output: give --output a directory.")
    vocabulary_pass.rules_of(config)
    shards = find_shards(config)
    for join in config.joins:
        find_beside(join.file, config)
    output = Output(config.output)
    if not output.is_of(_source(config, shards)):
        output.check(overwrite=config.overwrite)
    return shards


def finished(config: PreprocessConfig, shards: list[Shard]) -> Result | None:
    """The data set, where it is there already and was made of the same; needs no Ray."""
    start = time.monotonic()
    output = Output(config.output)
    if not output.is_of(_source(config, shards)):
        return None
    Work(_work_url(config, output)).remove()
    there = open_dataset(config.output)
    return Result(
        output=config.output,
        manifest=there.manifest,
        vocabulary={f.name: f.vocabulary_size for f in there.schema.categorical},
        seconds=time.monotonic() - start,
        unchanged=True,
    )


def preprocess(config: PreprocessConfig) -> Result:
    """Writes the data set, or goes on with what an earlier run of the same had begun.

    Raises:
        DataError: input that is not as the config says, or an output that may not be written. What
            is done stays in the work directory, unless it is bad input that was found soon.
    """
    start = time.monotonic()
    shards = check(config)
    there = finished(config, shards)
    if there is not None:
        return there
    output = Output(config.output)
    work = Work(_work_url(config, output))
    parent = open_parent(config)
    claim = output.claim()
    runner: Runner | None = None
    resumed = False
    try:
        source = _source(config, shards)
        resumed = work.open({key: source[key] for key in ("config", "parent")})
        runner = Runner(work, config.workers, source["files"])
        if resumed and runner.done:
            logger.warning("going on: %d tasks of an earlier run are done", len(runner.done))
        result = _run(config, shards, output, work, parent, runner)
        output.store.put(SOURCE, json.dumps(source).encode())
        output.store.put(MANIFEST_NAME, result[0].to_json().encode())
    except BaseException as error:
        little = runner is None or time.monotonic() - start < KEPT_AFTER_S
        if isinstance(error, UserError) and little and not resumed:
            if runner is not None and runner.mark("begin") in work.marks():
                output.clear()
            work.remove()
            claim.give_up()
            output.store.remove_empty()
            raise
        claim.stop()
        if isinstance(error, DataError):
            raise DataError(f"{error} {done(runner)}Then {GO_ON}") from None
        if isinstance(error, Exception) and is_storage_error(error):
            raise explain(error, config, runner) from None
        raise
    claim.give_up()
    work.remove()
    manifest, sizes, quarantined = result
    return Result(
        output=config.output,
        manifest=manifest,
        vocabulary=sizes,
        seconds=time.monotonic() - start,
        quarantined=quarantined,
        passes=runner.seconds,
    )


def _run(
    config: PreprocessConfig,
    shards: list[Shard],
    output: Output,
    work: Work,
    parent: Parent | None,
    runner: Runner,
) -> tuple[Manifest, dict[str, int], int]:
    plan = Plan(config, load_sides(config), work)
    shared = ray.put(plan)
    scans = runner.run(
        "reading",
        tasks.scan,
        [(shared, index, shard) for index, shard in enumerate(shards)],
        [tasks.scan_mark(index, shard) for index, shard in enumerate(shards)],
        [shard.name for shard in shards],
        sum(shard.bytes for shard in shards),
    )
    sections = [section for found in scans for section in found["sections"]]
    names = [
        shard.split for shard, found in zip(shards, scans, strict=True) for _ in found["sections"]
    ]
    reasons = _check_bad(config, work, sections)
    tallies = [Tally.from_json(s["tally"]) for s in sections]
    _refuse_no_rows(sum(t.rows for t in tallies), config)
    division = Division.of(config.split, tallies, names)
    sections = _counted(plan, shared, sections, division, runner)
    train = sum(s["rows"][0] for s in sections)
    if not train:
        raise DataError(
            f"{', '.join(config.input)}: none of the {sum(t.rows for t in tallies):,} rows is for "
            "training. Give more rows, or change `split` in the data-set YAML."
        )
    if runner.first_time(runner.mark("begin")):
        output.clear()  # only now: all rows have been checked, and what it replaces was whole
        work.mark(runner.mark("begin"), {})
    vocabularies = vocabulary_pass.run(plan, shared, sections, parent, runner, output)
    transforms = _transforms(config, sections, parent)
    fitted = FittedFeatures(
        columns=config.all_columns,
        crosses=tuple(config.crosses),
        numeric_as=config.numeric_as,
        missing=tuple(config.format.missing),
        sizes=vocabularies.sizes,
        transforms=transforms,
    )
    written = writing_pass.run(plan, division, sections, fitted, vocabularies, output, runner)
    schema = fitted.schema(config.name)
    output.store.put(SCHEMA_NAME, schema.to_json().encode())
    output.store.put(FEATURES_NAME, fitted.to_json().encode())
    files = {
        name: Split(
            files=tuple(part.file for part in written.parts if part.split == name),
            rows=sum(part.file.rows for part in written.parts if part.split == name),
            positives=sum(part.positives for part in written.parts if part.split == name),
        )
        for name in SPLITS
    }
    manifest = Manifest(
        schema_fingerprint=schema.fingerprint,
        splits=files,
        vocabularies=vocabularies.sha256,
        config=config.for_manifest(),
        transforms=transforms,
        parent=None if parent is None else parent.fingerprint,
    )
    writing_pass.quarantine(plan, sections, output)
    writing_pass.report(manifest, schema, written.profile, reasons, output)
    sizes = {field.name: field.vocabulary_size for field in schema.categorical}
    return manifest, sizes, sum(reasons.values())


def _counted(
    plan: Plan, shared: Any, sections: list[Summary], division: Division, runner: Runner
) -> list[Summary]:
    """The sections with the counts of their training rows."""
    open_ones = [k for k, section in enumerate(sections) if section["rows"] is None]
    ends = zip(division.rows[:-1], division.rows[1:], strict=True)
    whole = [division.config.by == "position" and end <= division.edges[0] for _, end in ends]
    for k in open_ones:
        if whole[k]:  # all its rows train, and all were counted
            tally = sections[k]["tally"]
            sections[k]["rows"] = [tally["rows"], 0, 0]
            sections[k]["positives"] = [tally["positives"], 0, 0]
    again = [k for k in open_ones if not whole[k]]
    counted = runner.run(
        "counting",
        tasks.recount,
        [(shared, k, division, sections[k], runner.stamp) for k in again],
        [runner.mark(f"count-{sections[k]['name']}") for k in again],
        [sections[k]["name"] for k in again],
    )
    for k, section in zip(again, counted, strict=True):
        sections[k] = section
    return sections


def _transforms(
    config: PreprocessConfig, sections: list[Summary], parent: Parent | None
) -> dict[str, Any]:
    if parent is not None:
        return dict(parent.transforms)
    numbers = NumberStatistics(config)
    for section in sections:
        if section["rows"][0]:
            numbers.merge(section["numbers"])
    return numbers.learn()


def _check_bad(config: PreprocessConfig, work: Work, sections: list[Summary]) -> Counter[str]:
    """How many rows were left out, by reason.

    Raises:
        DataError: more of them than the limit.
    """
    reasons: Counter[str] = Counter()
    for section in sections:
        reasons.update(section["reasons"])
    bad = sum(reasons.values())
    rows = sum(section["tally"]["rows"] for section in sections) + bad
    if bad > config.bad_rows.limit * rows:
        shown = ", ".join(f"{reason} ({n:,})" for reason, n in reasons.most_common(_EXAMPLES))
        first = next(s["name"] for s in sections if s["bad"])
        example = work.store.get(f"bad/{first}").decode().splitlines()[0]
        raise DataError(
            f"{bad:,} of {rows:,} rows are bad, more than bad_rows.limit "
            f"({config.bad_rows.limit:g}) allows: {shown}. The first is {example[:500]}. "
            "Correct `columns` or `format` in the data-set YAML, or raise the limit."
        )
    return reasons


def _refuse_no_rows(rows: int, config: PreprocessConfig) -> None:
    if not rows:
        raise DataError(
            f"{', '.join(config.input)}: no rows; all files are empty. Give files with rows."
        )


def _source(config: PreprocessConfig, shards: list[Shard]) -> dict[str, Any]:
    """What a data set is made of: settings and files, without where it is written."""
    return {
        "config": digest(config.for_manifest()),
        "files": digest(versions(shards)),
        "parent": config.parent and open_dataset(config.parent).manifest.fingerprint,
    }


def _work_url(config: PreprocessConfig, output: Output) -> str:
    if not config.work:
        return output.work
    return f"{config.work.rstrip('/')}/{digest(config.output)}"
