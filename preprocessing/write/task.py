"""The last passes: coded rows to the Parquet files of the splits, shuffled where that is wanted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ctrdist.data.manifest import SPLITS, DataFile
from ctrdist.features.columns import has_vocabulary, is_quantile
from ctrdist.features.encode import arrow_schema, encode
from ctrdist.features.fitted import FittedFeatures
from preprocessing.config.settings import PreprocessConfig
from preprocessing.runtime.task_runner import Step
from preprocessing.runtime.work_dir import stamped
from preprocessing.scan.scan_file import read_coded
from preprocessing.scan.task import Plan, Summary, coded_name, split_of
from preprocessing.split.plan import Division
from preprocessing.statistics.profile import Profile
from preprocessing.vocabulary.shard_values import ValuesIndex, hash_table
from preprocessing.vocabulary.vocabularies import AssignSummary, code_table
from preprocessing.write.output_dir import Output, PartWriter

TRAIN = SPLITS[0]


@dataclass(frozen=True)
class Writing:
    """What all tasks that write share."""

    plan: Plan
    division: Division
    fitted: FittedFeatures
    assigned: Sequence[AssignSummary]
    """The groups of the vocabularies."""
    output: Output
    stamp: str
    """Of the files of the run."""
    buckets: int = 0
    """Into how many buckets the training rows are scattered; 0: they keep their order."""


def write(
    writing: Writing, index: int, section: Summary, names: dict[str, str]
) -> Iterator[Step | Summary]:
    """Encodes a section into one file per split that it has rows of.

    Args:
        writing: what all share.
        index: of the section among all.
        section: its name, values and bytes.
        names: split → file. Without the training split where its rows are scattered.
    """
    config, work = writing.plan.config, writing.plan.work
    schema = writing.fitted.schema(config.name)
    target = arrow_schema(schema)
    name_of_section = section["name"]
    tables = _tables(writing, index, ValuesIndex(**section["values"]))
    assigner = writing.division.shard(index)
    profile = Profile(schema, folded=folded(config))
    total = writing.division.rows[index + 1] - writing.division.rows[index]
    place = writing.division.rows[index]
    positives = dict.fromkeys(names, 0)
    parts: dict[str, PartWriter] = {}
    scattered: list[pa.Table] = []
    with ExitStack() as stack:
        for name, path in names.items():
            new = writing.output.part(path, target, config.row_group_size)
            parts[name] = stack.enter_context(new)
        for rows in read_coded(work.store, coded_name(name_of_section)):
            chosen = split_of(assigner, rows)
            encoded = encode(rows, tables, writing.fitted, target)
            numbers = {c.name: rows.numbers[c.name] for c in config.numeric}
            profile.add(
                chosen,
                rows.label,
                numbers,
                encoded.ids,
                encoded.missing,
                rows.timestamp,
                place,
            )
            for found in np.unique(chosen):
                mask = chosen == found
                name = SPLITS[found]
                mine = encoded.table if mask.all() else encoded.table.filter(pa.array(mask))
                if name == TRAIN and writing.buckets:
                    at = place + np.flatnonzero(mask)
                    scattered.append(mine.append_column(_PLACE, pa.array(at)))
                    continue
                parts[name].write(mine)
                positives[name] += int(np.count_nonzero(rows.label[mask]))
            place += len(chosen)
            yield Step(len(chosen), section["bytes"] * len(chosen) // max(1, total))
    summary: Summary = {
        "parts": [
            {"split": name, "file": asdict(part.file), "positives": positives[name]}
            for name, part in parts.items()
        ],
    }
    # A file of its own: the driver would not hold those of thousands of sections at once.
    work.store.put(profile_name(name_of_section), json.dumps(profile.to_json()).encode())
    if writing.buckets:
        summary["edges"] = _scatter(writing, name_of_section, scattered, target)
    work.mark(stamped(f"write-{name_of_section}", writing.stamp), summary)
    yield summary


def gather(
    writing: Writing, bucket: int, sections: Sequence[tuple[str, int]], name: str
) -> Iterator[Step | Summary]:
    """Writes one file of shuffled training rows.

    Args:
        writing: what all share.
        bucket: which rows.
        sections: name of each, and the byte of its scattered file at which the array begins that
            tells where each bucket does.
        name: of the file.
    """
    config, work = writing.plan.config, writing.plan.work
    target = arrow_schema(writing.fitted.schema(config.name))
    found = []
    for section, edges in sections:
        at = edges + 8 * bucket
        begin, end = np.frombuffer(work.store.get_range(_scattered(section), at, at + 16), np.int64)
        if end > begin:
            raw = work.store.get_range(_scattered(section), int(begin), int(end))
            found.append(pa.ipc.open_stream(raw).read_all())
    rows = pa.concat_tables(found).combine_chunks() if found else target.empty_table()
    order = np.random.default_rng([config.split.seed, bucket]).permutation(rows.num_rows)
    with writing.output.part(name, target, config.row_group_size) as part:
        for start in range(0, rows.num_rows, config.row_group_size):
            part.write(rows.take(pa.array(order[start : start + config.row_group_size])))
    positives = int(np.count_nonzero(rows.column(0).to_numpy())) if rows.num_rows else 0
    summary = {"parts": [{"split": TRAIN, "file": asdict(part.file), "positives": positives}]}
    work.mark(stamped(f"gather-{bucket:05d}", writing.stamp), summary)
    yield summary


_PLACE = "place in the log"


def _scatter(writing: Writing, name: str, tables: list[pa.Table], target: pa.Schema) -> int:
    """Writes a section's training rows by bucket, and where each begins.

    Returns:
        The byte at which the latter begins, an int64 array (buckets + 1,).
    """
    rows = pa.concat_tables(tables) if tables else None
    edges: list[int] = [0]
    with writing.plan.work.store.write(_scattered(name)) as file:
        sink = pa.PythonFile(file, mode="w")
        bucket_of = _buckets(writing, rows.column(_PLACE).to_numpy()) if rows else np.zeros(0)
        rows = rows.drop_columns([_PLACE]) if rows else None
        order = np.argsort(bucket_of, kind="stable")
        ends = np.searchsorted(bucket_of[order], np.arange(writing.buckets + 1))
        for low, high in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
            if high > low and rows is not None:
                with pa.ipc.new_stream(sink, target) as stream:
                    stream.write_table(rows.take(pa.array(order[low:high])).combine_chunks())
            edges.append(sink.tell())
        sink.write(np.array(edges, np.int64).tobytes())
    return edges[-1]


def _buckets(writing: Writing, places: np.ndarray) -> np.ndarray:
    """(n,) int64: the bucket of each row, by a hash of its place in the log."""
    seed = hashlib.sha256(f"shuffle {writing.plan.config.split.seed}".encode()).digest()
    state = places.astype(np.uint64) + np.frombuffer(seed[:8], "<u8")
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = (state ^ state >> np.uint64(shift)) * np.uint64(factor)  # SplitMix64's finaliser
    state ^= state >> np.uint64(31)
    return (state % np.uint64(writing.buckets)).astype(np.int64)


def _tables(writing: Writing, index: int, values: ValuesIndex) -> dict[str, np.ndarray]:
    config, store = writing.plan.config, writing.plan.work.store
    tables = code_table(store, values, index, writing.assigned)
    for column in config.categorical:
        if column.encoding == "hash" and not is_quantile(column):
            assert column.num_buckets is not None
            tables[column.name] = hash_table(store, values, column.name, column.num_buckets)
    return tables


def folded(config: PreprocessConfig) -> list[str]:
    """Fields whose ids do not go by falling count."""
    hashed = [c.name for c in config.categorical if not has_vocabulary(c)]
    return [*hashed, *(c.name for c in config.crosses)]


def profile_name(section: str) -> str:
    """Where a section's profile is."""
    return f"profile/{section}"


def _scattered(name: str) -> str:
    return f"scatter/{name}"


def data_file(values: dict[str, Any]) -> DataFile:
    """From a summary."""
    return DataFile(**{**values, "row_groups": tuple(values["row_groups"])})
