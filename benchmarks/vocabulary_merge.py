"""The stages of a vocabulary: on a log like Criteo's, and on columns that no memory holds.

The first, --log, makes the distinct values of some shards of a million rows and takes all stages
through them. The second, by default, takes columns of --values distinct values. The entries of one
partition after the other are made (in a process of its own, not timed) and merged, until --seconds
are over; ids are then assigned to what was merged. Times are CPU seconds of this one process,
so that other work on the machine does not count; its peak memory is printed too.

python benchmarks/vocabulary_merge.py --log [--shards 11] [--max-bytes 268435456] [--out FILE.json]
python benchmarks/vocabulary_merge.py [--columns 26] [--values 200000000] [--seconds 600]
"""

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402

from ctrdist.native.distinct import BUCKETS  # noqa: E402
from ctrdist.storage import Store  # noqa: E402
from preprocessing.scan.shard_values import ColumnValues, ValuesIndex, write_values  # noqa: E402
from preprocessing.vocabulary.assign_ids import (  # noqa: E402
    assign_ids,
    id_tables,
    write_shard_ids,
)
from preprocessing.vocabulary.hash_partition import plan_groups  # noqa: E402
from preprocessing.vocabulary.merge import MergedGroup, Rule, merge  # noqa: E402

CARDINALITIES = (
    1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194,
    27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572,
)  # fmt: skip
"""Distinct values of the 26 columns of Criteo's display-advertising log."""
SCAN = 1.3
"""Seconds per million rows and core of the scan that the stages are compared with."""
COPIES = 1.5
"""Shards that have a value, on average, in the simulation."""


class Clock:
    """CPU seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times what is inside."""
        begun = time.process_time()
        yield
        self.seconds[name] += time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", action="store_true", help="the stages on a log like Criteo's")
    parser.add_argument("--shards", type=int, default=0, help="0: 11 of the log, else 64")
    parser.add_argument("--min-count", type=int, default=1)
    parser.add_argument("--columns", type=int, default=26)
    parser.add_argument("--values", type=int, default=200_000_000, help="of a column, distinct")
    parser.add_argument("--seconds", type=float, default=600, help="of making and merging")
    parser.add_argument("--max-bytes", type=int, default=2**28, help="of a group in memory")
    parser.add_argument("--folder", default=None, help="for the files, 40 bytes a value")
    parser.add_argument("--out", default="", help="JSON file for the figures")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        figures = (log if args.log else simulate)(Store(folder), args)
    figures["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(figures, indent=2))
    if args.out:
        Path(args.out).write_text(json.dumps(figures, indent=2) + "\n")


def log(store: Store, args: argparse.Namespace) -> dict:
    """All stages on shards of a million rows."""
    rules = {f"C{i + 1}": Rule(min_count=args.min_count) for i in range(len(CARDINALITIES))}
    clock, shards = Clock(), args.shards or 11
    indices: list[ValuesIndex] = []
    for shard in range(shards):
        columns = made_shard(shard)
        with clock.stage("write_values"):
            indices.append(write_values(store, f"scan/{shard}", columns))
    del columns
    groups = plan_groups(indices, list(rules), max_bytes=args.max_bytes)
    merged: list[MergedGroup] = []
    by_column, assigned = {}, []
    for i, group in enumerate(groups):
        with clock.stage("merge"):
            merged.append(merge(store, group, indices, rules, f"merged/{i}"))
    for column in rules:
        with clock.stage("assign_ids"):
            by_column[column] = assign_ids(
                store, column, merged, None, store, f"vocabulary/{column}", f"assign/{column}"
            )
    for i, group in enumerate(merged):
        with clock.stage("write_shard_ids"):
            assigned.append(write_shard_ids(store, group, by_column, rules, f"ids/{i}"))
    for shard, index in enumerate(indices):
        with clock.stage("id_tables"):
            id_tables(store, index, shard, assigned)
    entries = sum(sum(index.entries) for index in indices)
    total = sum(clock.seconds.values())
    return {
        "rows": shards * 10**6,
        "entries": entries,
        "distinct": sum(part.distinct for group in merged for part in group.parts),
        "kept": sum(n.size for n in by_column.values()),
        "groups": len(groups),
        "cpu_seconds": {**clock.seconds, "all": total},
        "per_million_entries": {k: s / entries * 1e6 for k, s in clock.seconds.items()},
        "share_of_scan": total / (SCAN * shards),
    }


def made_shard(shard: int) -> dict[str, ColumnValues]:
    """The distinct values of a million rows; a value's frequency is one over its rank."""
    rng = np.random.default_rng(shard)
    columns = {}
    for i, size in enumerate(CARDINALITIES):
        drawn = np.floor(size ** rng.random(10**6)).astype(np.uint64)
        ranks, first, counts = np.unique(drawn, return_index=True, return_counts=True)
        codes = np.argsort(first)  # by first appearance
        numbers = ranks[codes] + np.uint64(i * 40_000_000)
        columns[f"C{i + 1}"] = ColumnValues(texts(numbers), mixed(numbers), counts[codes])
    return columns


def simulate(store: Store, args: argparse.Namespace) -> dict:
    """As many partitions of as many columns as the time allows; the last may be cut short."""
    shards = args.shards or 64
    sizes = ValuesIndex("", ["x"], [int(args.values * COPIES)], [int(args.values * COPIES * 8)], 0)
    groups = plan_groups([sizes], ["x"], max_bytes=args.max_bytes)
    rules, clock, begun = {"x": Rule(min_count=args.min_count)}, Clock(), time.monotonic()
    done = {"partitions": 0, "columns": 0, "entries": 0, "distinct": 0, "kept": 0, "bytes": 0}
    largest = 0
    pool = multiprocessing.get_context("spawn").Pool(1)
    for _ in range(args.columns):
        merged: list[MergedGroup] = []
        for i, group in enumerate(groups):
            if time.monotonic() - begun > args.seconds:
                break
            indices = pool.apply(make_partition, (store, i, len(groups), args.values, shards))
            with clock.stage("merge"):
                merged.append(merge(store, group, indices, rules, f"merged/{i}"))
            done["entries"] += sum(index.entries[0] for index in indices)
            done["bytes"] += size_of(store, "scan")
            store.remove("scan")
            largest = max(largest, merged[-1].parts[0].distinct)
        if not merged:
            break
        with clock.stage("assign_ids"):
            ids = assign_ids(store, "x", merged, None, store, "vocabulary", "assign")
        for i, group in enumerate(merged):
            with clock.stage("write_shard_ids"):
                write_shard_ids(store, group, {"x": ids}, rules, f"ids/{i}")
        # merged files are read twice, but for their ranks
        done["bytes"] += 2 * size_of(store, "merged") + 2 * size_of(store, "assign")
        done["bytes"] += size_of(store, "ids") + size_of(store, "vocabulary")
        done["partitions"] += len(merged)
        done["columns"] += len(merged) == len(groups)
        done["distinct"] += sum(part.distinct for group in merged for part in group.parts)
        done["kept"] += ids.size
        for name in ("merged", "assign", "ids", "vocabulary"):
            store.remove(name)
    pool.terminate()
    share = done["partitions"] / (len(groups) * args.columns)
    total = sum(clock.seconds.values())
    return {
        "wanted": f"{args.columns} columns of {args.values:,} values in {len(groups)} partitions, "
        f"{shards} shards",
        "done": done,
        "share": share,
        "largest_partition": largest,
        "cpu_seconds": {**clock.seconds, "all": total},
        "per_million_entries": {k: s / done["entries"] * 1e6 for k, s in clock.seconds.items()},
        "values_per_s_and_core": done["distinct"] / total,
        "core_hours_for_all": total / share / 3600,
    }


def make_partition(
    store: Store, part: int, parts: int, size: int, shards: int
) -> list[ValuesIndex]:
    """Writes the entries of one of `parts` partitions of `size` values, for all shards."""
    numbers = np.arange(size * part // parts, size * (part + 1) // parts, dtype=np.uint64)
    random = mixed(numbers)
    width = np.uint64(BUCKETS // parts)
    bucket = np.uint64(part) * width + (random >> np.uint64(56)) % width
    hashes = bucket << np.uint64(56) | mixed(random) >> np.uint64(8)
    again = random % np.uint64(100) < np.uint64(round(100 * (COPIES - 1)))
    entry = np.concatenate([np.arange(len(numbers)), np.flatnonzero(again)])
    where = np.concatenate([random >> np.uint64(8), mixed(random[again])]) % np.uint64(shards)
    entry = entry[np.argsort(where.astype(np.uint16), kind="stable")]
    edges = np.concatenate([[0], np.cumsum(np.bincount(where.astype(np.int64), minlength=shards))])
    indices = []
    for shard in range(shards):
        mine = entry[edges[shard] : edges[shard + 1]]
        counts = 1 + (numbers[mine] % np.uint64(97) == 0) * (numbers[mine] % np.uint64(1000))
        values = ColumnValues(texts(numbers[mine]), hashes[mine], counts.astype(np.int64))
        indices.append(write_values(store, f"scan/{shard}", {"x": values}))
    return indices


def mixed(numbers: np.ndarray) -> np.ndarray:
    """(n,) uint64: SplitMix64's output function, one to one."""
    x = numbers + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)


def texts(numbers: np.ndarray) -> pa.Array:
    """(n,) string: 8 hexadecimal digits, different for numbers below 2³²."""
    scattered = (numbers * np.uint64(2654435761)).astype(np.uint32)
    shifts = np.arange(28, -1, -4, dtype=np.uint32)
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)[
        scattered[:, None] >> shifts & np.uint32(15)
    ]
    offsets = np.arange(0, 8 * len(numbers) + 1, 8, dtype=np.int32)
    return pa.StringArray.from_buffers(
        len(numbers), pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(digits))
    )


def size_of(store: Store, name: str) -> int:
    """Bytes of a file, or of all in a folder."""
    names = store.names(name) or [name]
    return sum(os.path.getsize(store.path(n)) for n in names)


if __name__ == "__main__":
    main()
