"""Rows are found again by their index."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ctrdist.data.lookup import origins, read_rows
from tests.datasets import write_dataset


def test_rows_come_in_the_order_asked_for_with_all_their_columns(tmp_path, rng):
    dataset = write_dataset(tmp_path, {"train": 501}, multi_valued=True, files=3, row_group=40)
    paths = [tmp_path / file.path for file in dataset.split("train").files]
    whole = pa.concat_tables([pq.read_table(path) for path in paths])
    row_N = rng.permutation(501)[:60]
    found = read_rows(dataset, "train", row_N)
    assert found["__row"].to_pylist() == row_N.tolist()
    assert found.drop_columns("__row").equals(whole.take(pa.array(row_N)))


def test_origins_name_file_and_position(tmp_path):
    dataset = write_dataset(tmp_path, {"train": 100}, files=2)
    assert origins(dataset, "train", np.array([99, 3, 50])) == {
        "train/part-00000.parquet": [3],
        "train/part-00001.parquet": [49, 0],
    }
