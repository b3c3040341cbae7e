"""1/n of looked-up ids, from the vocabularies of a data set."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ctrdist.data.counts import read_counts
from ctrdist.models.id_counts import InverseCounts
from tests.datasets import write_counts, write_dataset

ROWS = 1000


def lookup(lists: dict[str, list[list[int]]]) -> KeyedJaggedTensor:
    ids = [i for rows in lists.values() for ids in rows for i in ids]
    lengths = [len(ids) for rows in lists.values() for ids in rows]
    return KeyedJaggedTensor(list(lists), torch.tensor(ids), lengths=torch.tensor(lengths))


def test_it_is_one_over_the_count_within_seven_percent(tmp_path):
    dataset = write_dataset(tmp_path, {"train": ROWS}, multi_valued=True)
    write_counts(dataset)
    counts = read_counts(dataset, strict=False)
    inverse = InverseCounts(counts.ends, counts.unknown)
    lists = {
        "C0": [[2], [29], [5]],
        "tags": [[2, 8], [], [3, 3, 4]],
        "C1": [[6], [2], [3]],
        "C2": [[49], [1], [10]],
    }
    found = inverse(lookup(lists), 3)
    known = sum(ROWS // i for i in range(2, 50))
    of = {1: max(ROWS - known, 1)} | {i: ROWS // i for i in range(2, 50)}
    expected = [[np.mean([1 / of[i] for i in v] or [0]) for v in lists[key]] for key in lists]
    np.testing.assert_allclose(found.numpy(), np.array(expected).T, rtol=0.08)


def test_hashed_fields_and_ids_of_a_parent_have_counts_too(tmp_path):
    dataset = write_dataset(tmp_path, {"train": ROWS}, vocabulary=(12, 7))
    write_counts(dataset)
    path = Path(dataset.path) / "vocabulary" / "C1.parquet"
    table = pq.read_table(path)
    rows = table.to_pydict()
    rows["count"] = [10, 300, 20, 5, 5]
    pq.write_table(table.from_pydict(rows, schema=table.schema), path)
    (path.parent / "C0.parquet").unlink()
    manifest = replace(dataset.manifest, config={"made": "up"}, vocabularies={"C1": "x"})
    dataset = replace(dataset, manifest=manifest)
    counts = read_counts(dataset, strict=False)
    found = InverseCounts(counts.ends, counts.unknown)(
        lookup({"C0": [[2], [11]], "C1": [[2], [4]]}), 2
    )
    expected = [[10 / ROWS, 1 / 300], [10 / ROWS, 1 / 20]]
    np.testing.assert_allclose(found.numpy(), expected, rtol=0.08)
    assert json.dumps(counts.ends)
