"""Shuffled rows are those that were scattered, and are gathered with few reads."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from ctrdist.storage import Store
from preprocessing.write.shuffle import ROW_INDEX, Scattered, bucket_ranges, gather, scatter

SCHEMA = pa.schema([pa.field("label", pa.float32(), nullable=False), pa.field("x", pa.int32())])
BUCKETS, SEED = 7, 3


class CountingStore(Store):
    """Counts the reads of each file."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.reads: Counter[str] = Counter()

    def get_range(self, name: str, start: int, end: int) -> bytes:
        self.reads[name] += 1
        return super().get_range(name, start, end)


def scattered(store: Store, sizes: list[int]) -> Scattered:
    names, offsets, first = [], [], 0
    for k, size in enumerate(sizes):
        rows = np.arange(first, first + size)
        table = pa.table([np.zeros(size, np.float32), rows.astype(np.int32)], schema=SCHEMA)
        tables = [table.append_column(ROW_INDEX, pa.array(rows))] if size else []
        names.append(f"scatter/{k}")
        offsets.append(scatter(store, names[-1], tables, SCHEMA, BUCKETS, SEED))
        first += size
    return Scattered(names, np.stack(offsets))


@pytest.mark.parametrize("tasks", [[range(7)], [range(b, b + 1) for b in range(7)]])
def test_all_rows_are_gathered_once_in_an_order_that_tasks_do_not_change(tmp_path, tasks):
    store = Store(str(tmp_path))
    files = scattered(store, [50, 0, 1, 200])
    found = [
        table.column("x").to_pylist()
        for buckets in tasks
        for table in gather(store, files, buckets, SCHEMA, SEED)
    ]
    assert len(found) == BUCKETS
    assert sorted(x for rows in found for x in rows) == list(range(251))
    first = found[0]
    assert first != sorted(first)
    whole = Store(str(tmp_path / "whole"))  # one shard with the same rows
    again = gather(whole, scattered(whole, [251]), range(1), SCHEMA, SEED)
    assert next(iter(again)).column("x").to_pylist() == first


def test_a_task_reads_one_range_of_each_file(tmp_path):
    store = CountingStore(str(tmp_path))
    files = scattered(store, [300, 300, 300])
    store.reads.clear()
    assert sum(t.num_rows for t in gather(store, files, range(2, 6), SCHEMA, SEED)) > 300
    assert store.reads == dict.fromkeys(files.names, 1)


@pytest.mark.parametrize(("buckets", "at_a_time"), [(1, 2), (16, 2), (17, 1), (4096, 64), (5, 99)])
def test_tasks_gather_every_bucket_once(buckets, at_a_time):
    ranges = bucket_ranges(buckets, at_a_time)
    assert [b for some in ranges for b in some] == list(range(buckets))
    assert max(map(len, ranges)) <= 4 and len(ranges) >= min(buckets, 2 * at_a_time)
