"""φ: from the vocabularies of a data set to a standardised logarithm per row and field."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ctrdist.data.counts import read_counts
from ctrdist.errors import DataError
from ctrdist.models.dual_attention.frequency import Frequency
from tests.datasets import write_counts, write_dataset

ROWS = 1000


@pytest.fixture
def dataset(tmp_path):
    found = write_dataset(tmp_path, {"train": ROWS}, numeric=1, multi_valued=True)
    write_counts(found)
    return found


def test_phi_is_the_standardised_logarithm_of_the_count(dataset) -> None:
    """To within half a level; field by field and row by row, in float64."""
    counts = read_counts(dataset)
    known = np.concatenate(
        [ROWS // np.arange(2, f.vocabulary_size) for f in dataset.schema.categorical]
    ).astype(np.float64)
    logs = np.log1p(known)
    mean = (known * logs).sum() / known.sum()
    std = np.sqrt((known * (logs - mean) ** 2).sum() / known.sum())
    assert counts.mean == pytest.approx(mean) and counts.std == pytest.approx(std)
    assert counts.of_all == pytest.approx(np.log1p(ROWS))

    frequency = Frequency(dataset.schema)
    frequency.fill(counts.ends, counts.mean, counts.std, counts.of_all)
    lists = {
        "C0": [[2], [29], [1], [5]],
        "tags": [[2, 8], [], [1, 3, 3], [4]],
        "C1": [[6], [2], [3], [0]],
        "C2": [[49], [2], [10], [33]],
    }
    ids = [i for rows in lists.values() for ids in rows for i in ids]
    lengths = [len(ids) for rows in lists.values() for ids in [*rows, []]]  # a row that fills up
    sparse = KeyedJaggedTensor(
        list(lists),
        torch.tensor(ids, dtype=torch.int32),
        lengths=torch.tensor(lengths, dtype=torch.int32),
        stride=5,
    )
    phi = frequency(sparse, 4)
    assert phi.shape == (4, 5) and phi.dtype == torch.float32

    def log(id_: int) -> float:
        return float(np.log1p(ROWS // id_)) if id_ >= 2 else 0.0

    for b in range(4):
        expected = [np.log1p(ROWS)]
        for rows in lists.values():
            expected.append(float(np.mean([log(i) for i in rows[b]])) if rows[b] else 0.0)
        standardised = (np.array(expected) - mean) / std
        np.testing.assert_allclose(phi[b].numpy(), standardised, atol=0.0626 / std)


def test_it_is_small_for_any_vocabulary_and_part_of_the_state(dataset) -> None:
    frequency = Frequency(dataset.schema)
    assert sum(b.numel() for b in frequency.buffers()) == 4 * 256 + 3
    assert set(frequency.state_dict()) == {"ends_CQ", "scale"}
    assert not list(frequency.parameters())


def test_a_data_set_without_counts_is_refused(tmp_path) -> None:
    found = write_dataset(tmp_path, {"train": 10})
    with pytest.raises(DataError, match=r"C0.parquet: .*model.frequency .*set these"):
        read_counts(found)


def test_counts_in_another_order_are_refused(dataset) -> None:
    path = Path(dataset.path) / "vocabulary" / "C1.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(2, "count", pa.array([1, 2, 3, 4, 5])), path)
    with pytest.raises(DataError, match="counts do not fall with the id"):
        read_counts(dataset)
