"""The passes that write the rows, and the report on them."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow.parquet as pq
import ray

from ctrdist.data.manifest import SPLITS, DataFile, Manifest
from ctrdist.features.fitted import FittedFeatures
from ctrdist.schema import Schema
from preprocessing.report.build import build_report
from preprocessing.report.page import render
from preprocessing.runtime.task_runner import Runner
from preprocessing.scan.task import Plan, Summary
from preprocessing.split.plan import Division
from preprocessing.statistics.profile import Profile
from preprocessing.vocabulary.vocabulary_pass import Vocabularies
from preprocessing.write.output_dir import QUARANTINE, REPORT, VOCABULARY, Output
from preprocessing.write.task import TRAIN, Writing, data_file, folded, gather, profile_name, write

BUCKET_BYTES = 64 * 2**20
"""Of raw log whose rows one process shuffles."""
MOST_BUCKETS = 4096
"""Beyond 256 GiB of log, buckets grow rather than their number."""


@dataclass(frozen=True)
class Part:
    """A file that was written."""

    split: str
    file: DataFile
    positives: int


@dataclass(frozen=True)
class Written:
    """All of them, and what is known of their rows."""

    parts: list[Part]
    profile: Profile


def run(
    plan: Plan,
    division: Division,
    sections: Sequence[Summary],
    fitted: FittedFeatures,
    vocabularies: Vocabularies,
    output: Output,
    runner: Runner,
) -> Written:
    """Writes the files of all splits."""
    config = plan.config
    raw = sum(section["bytes"] for section in sections)
    buckets = min(math.ceil(raw / BUCKET_BYTES), MOST_BUCKETS) if config.shuffle else 0
    writing = Writing(plan, division, fitted, vocabularies.assigned, output, runner.stamp, buckets)
    shared = ray.put(writing)
    numbers = {name: itertools.count() for name in SPLITS}
    calls = []
    for index, section in enumerate(sections):
        filled = [name for name, rows in zip(SPLITS, section["rows"], strict=True) if rows]
        if buckets:
            filled = [name for name in filled if name != TRAIN]
        names = {name: part_name(name, next(numbers[name])) for name in filled}
        used = {key: section[key] for key in ("name", "values", "bytes")}
        calls.append((shared, index, used, names))
    titles = [section["name"] for section in sections]
    summaries = runner.run(
        "writing", write, calls, [runner.mark(f"write-{title}") for title in titles], titles, raw
    )
    profile = Profile(fitted.schema(config.name), folded=folded(config))
    for title in titles:
        found = json.loads(plan.work.store.get(profile_name(title)))
        profile.merge(Profile.from_json(found, profile.schema))
    parts = _parts(summaries)
    if buckets:
        scattered = ray.put(
            [(t, summary["edges"]) for t, summary in zip(titles, summaries, strict=True)]
        )
        gathered = runner.run(
            "shuffling",
            gather,
            [(shared, b, scattered, part_name(TRAIN, b)) for b in range(buckets)],
            [runner.mark(f"gather-{b:05d}") for b in range(buckets)],
            [f"shuffled rows, part {b + 1} of {buckets}" for b in range(buckets)],
        )
        parts = [p for p in _parts(gathered) if p.file.rows] + parts
    return Written(parts, profile)


def report(
    manifest: Manifest,
    schema: Schema,
    profile: Profile,
    reasons: Mapping[str, int],
    output: Output,
) -> None:
    """Writes report.json and report.html."""

    def top_values(field: str, n: int) -> list[str]:
        if field not in manifest.vocabularies:
            return []
        with output.store.input(f"{VOCABULARY}/{field}.parquet") as source:
            batch = next(pq.ParquetFile(source).iter_batches(max(1, n), columns=["value"]), None)
        return [] if batch is None else batch.column(0).slice(0, n).to_pylist()

    rows = sum(split.rows for split in manifest.splits.values())
    content = build_report(
        profile,
        fingerprint=manifest.fingerprint,
        rows_read=rows + sum(reasons.values()),
        quarantined=reasons,
        top_values=top_values,
    )
    output.store.put(f"{REPORT}.json", (json.dumps(content, indent=1) + "\n").encode())
    output.store.put(f"{REPORT}.html", render(content).encode())


def quarantine(plan: Plan, sections: Sequence[Summary], output: Output) -> None:
    """Brings the rows that were left out into the data set."""
    filled = [section for section in sections if section["bad"]]
    for number, section in enumerate(filled):
        text = plan.work.store.get(f"bad/{section['name']}")
        output.store.put(f"{QUARANTINE}/part-{number:05d}.jsonl", text)


def part_name(split: str, number: int) -> str:
    """Of a file of a split."""
    return f"{split}/part-{number:05d}.parquet"


def _parts(summaries: Sequence[Summary]) -> list[Part]:
    return [
        Part(part["split"], data_file(part["file"]), part["positives"])
        for summary in summaries
        for part in summary["parts"]
    ]
