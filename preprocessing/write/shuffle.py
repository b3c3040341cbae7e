"""Shuffles the training rows in two steps, with bounded memory.

Each shard scatters its rows to buckets by a hash of their index in the log. Each bucket is then
gathered from all shards, permuted, and written as one file.

The scatter file of a shard holds, for each bucket that has rows of it, an Arrow IPC stream. The
result of the task that writes it says at which byte each bucket begins.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ctrdist.storage import Store
from preprocessing.split.assign import splitmix64

BUCKET_BYTES = 64 * 2**20
"""Bytes of raw log whose rows one bucket holds."""
MOST_BUCKETS = 4096
"""Beyond 256 GiB of log, buckets grow rather than their number."""
BUCKETS_PER_TASK = 4
"""Upper bound of the neighbouring buckets that a task reads at once from each scatter file."""
ROW_INDEX = ""
"""Column of the rows that are scattered, beside those of the data set."""


@dataclass(frozen=True)
class Scattered:
    """The scatter files of all shards, in the order of the log."""

    names: Sequence[str]
    offsets: np.ndarray
    """(shards, buckets + 1) int64: byte at which each bucket begins."""


def num_buckets(raw_bytes: int) -> int:
    """Number of buckets for this much raw log."""
    return min(math.ceil(raw_bytes / BUCKET_BYTES), MOST_BUCKETS)


def bucket_ranges(buckets: int, tasks_at_a_time: int) -> list[range]:
    """The buckets that each task gathers: several, unless tasks would be too few to share."""
    size = min(max(1, buckets // (4 * tasks_at_a_time)), BUCKETS_PER_TASK)
    return [range(b, min(b + size, buckets)) for b in range(0, buckets, size)]


def scatter(
    store: Store, name: str, tables: Sequence[pa.Table], schema: pa.Schema, buckets: int, seed: int
) -> np.ndarray:
    """Writes a shard's training rows, which have the column ROW_INDEX, by bucket.

    Returns:
        (buckets + 1,) int64: byte at which each bucket begins.
    """
    offsets: np.ndarray = np.zeros(buckets + 1, np.int64)
    rows = pa.concat_tables(tables) if tables else None
    with store.write(name) as file:
        if rows is None:
            return offsets
        sink = pa.PythonFile(file, mode="w")
        bucket = _bucket_of(rows.column(ROW_INDEX).to_numpy(), buckets, seed)
        rows = rows.drop_columns([ROW_INDEX])
        order = np.argsort(bucket, kind="stable")
        ends = np.searchsorted(bucket[order], np.arange(buckets + 1))
        for b, (low, high) in enumerate(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)):
            if high > low:
                with pa.ipc.new_stream(sink, schema) as stream:
                    stream.write_table(rows.take(pa.array(order[low:high])).combine_chunks())
            offsets[b + 1] = sink.tell()
    return offsets


def gather(
    store: Store, scattered: Scattered, buckets: range, schema: pa.Schema, seed: int
) -> Iterator[pa.Table]:
    """Yields the permuted rows of each of some neighbouring buckets."""
    offsets = scattered.offsets[:, buckets.start : buckets.stop + 1]
    filled = np.flatnonzero(offsets[:, 0] < offsets[:, -1]).tolist()
    offsets = offsets[filled]
    ranges = [
        (scattered.names[s], int(begin), int(end))
        for s, begin, end in zip(filled, offsets[:, 0], offsets[:, -1], strict=True)
    ]
    raw = [pa.py_buffer(content) for content in store.get_ranges(ranges)]
    offsets = offsets - offsets[:, :1]
    for b, bucket in enumerate(buckets):
        found = [
            pa.ipc.open_stream(content.slice(begin, end - begin)).read_all()
            for content, begin, end in zip(
                raw, offsets[:, b].tolist(), offsets[:, b + 1].tolist(), strict=True
            )
            if end > begin
        ]
        rows = pa.concat_tables(found).combine_chunks() if found else schema.empty_table()
        order = np.random.default_rng([seed, bucket]).permutation(rows.num_rows)
        yield rows.take(pa.array(order))


def _bucket_of(rows: np.ndarray, buckets: int, seed: int) -> np.ndarray:
    """(n,) int64: the bucket of each row, by a hash of its index in the log."""
    key = hashlib.sha256(f"shuffle {seed}".encode()).digest()
    hashes = splitmix64(rows.astype(np.uint64) + np.frombuffer(key[:8], "<u8"))
    return (hashes % np.uint64(buckets)).astype(np.int64)
