"""The loader, on real Parquet files."""

import dataclasses
from dataclasses import replace
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ctrdist.config.experiment import LoaderConfig
from ctrdist.data.loader import Loader
from ctrdist.data.manifest import open_dataset
from ctrdist.data.reader import SplitReader
from ctrdist.data.rows import weights_of_log
from ctrdist.errors import CheckpointError, ConfigError, DataError
from ctrdist.metrics.rows import digest, digest_of_range
from tests.datasets import write_dataset

ROWS = 503  # odd, so that steps and shares differ
CONFIG = LoaderConfig(batch_size=60, shuffle_rows=120, prefetch=2)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    return write_dataset(
        path, {"train": ROWS, "valid": 90}, multi_valued=True, user=True, files=3, row_group=40
    )


@pytest.fixture(scope="module")
def stored(dataset):
    """The split as one table, in stored order."""
    return pq.read_table([f"{dataset.path}/{f.path}" for f in dataset.split("train").files])


def loaders(dataset, world_size, **kwargs):
    kwargs = {"seed": 3, **kwargs}
    return [
        Loader(dataset, "train", CONFIG, rank=r, world_size=world_size, **kwargs)
        for r in range(world_size)
    ]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7])
def test_same_global_steps_for_any_number_of_workers(dataset, world_size):
    alone = [batch.row_B.tolist() for batch in loaders(dataset, 1)[0]]
    together = [
        [row for batch in step for row in batch.row_B.tolist()]
        for step in zip(*loaders(dataset, world_size), strict=True)
    ]
    assert together == alone
    assert sorted(chain.from_iterable(alone)) == list(range(ROWS))


def test_batches_hold_what_the_files_hold(dataset, stored):
    tags = stored.column("tags").to_pylist()
    for batch in loaders(dataset, 2)[1]:
        rows = batch.row_B.numpy()
        lookup = batch.sparse.to_dict()
        for name in ("C0", "C1", "C2"):
            ids = lookup[name].values()
            assert ids.tolist() == stored.column(name).to_numpy()[rows].tolist()
        dense = lookup["tags"].to_dense()
        assert [t.tolist() for t in dense][: len(rows)] == [tags[row] for row in rows]
        np.testing.assert_array_equal(batch.numeric_BK[:, 1], stored.column("I1").to_numpy()[rows])
        np.testing.assert_array_equal(batch.label_B, stored.column("label").to_numpy()[rows])
        np.testing.assert_array_equal(batch.user_B, stored.column("__user").to_numpy()[rows])


def test_ids_are_filled_up_to_the_largest_share(dataset):
    for step in zip(*loaders(dataset, 7), strict=True):
        assert len({batch.sparse.stride() for batch in step}) == 1
        assert sum(len(batch.label_B) for batch in step) == step[0].global_size


@pytest.mark.parametrize(("before", "after"), [(1, 1), (2, 2), (2, 3), (4, 1)])
def test_goes_on_with_another_number_of_workers(dataset, before, after):
    seen = []
    first = loaders(dataset, before)
    iterators = [iter(loader) for loader in first]
    for _ in range(3):
        seen += [row for iterator in iterators for row in next(iterator).row_B.tolist()]
    states = [loader.state_dict() for loader in first]
    assert all(state == states[0] for state in states)
    second = loaders(dataset, after)
    for loader in second:
        loader.load_state_dict(states[0])
    for step in zip(*second, strict=True):
        seen += [row for batch in step for row in batch.row_B.tolist()]
    alone = [row for batch in loaders(dataset, 1)[0] for row in batch.row_B.tolist()]
    assert seen == alone
    assert digest(np.array(seen)) == digest_of_range(ROWS)


def test_epochs_have_different_orders(dataset):
    loader = loaders(dataset, 1)[0]
    first = torch.cat([batch.row_B for batch in loader])
    loader.next_epoch()
    second = torch.cat([batch.row_B for batch in loader])
    assert first.tolist() != second.tolist()
    assert sorted(first.tolist()) == sorted(second.tolist())


def test_reading_ahead_does_not_count_as_seen(dataset):
    loader = loaders(dataset, 1)[0]
    iterator = iter(loader)
    next(iterator)
    assert loader.consumed == 60
    iterator.close()
    assert loader.state_dict()["consumed"] == 60


def test_the_second_of_a_pair_is_not_yet_consumed(dataset):
    loader, plain = loaders(dataset, 1)[0], loaders(dataset, 1)[0]
    seen, announced = [], []
    for batch, following in loader.in_pairs():
        seen.append(batch.row_B.tolist())
        announced.append(following and following.row_B.tolist())
        assert loader.consumed == sum(map(len, seen))
    assert seen == [batch.row_B.tolist() for batch in plain]
    assert announced == [*seen[1:], None]
    assert loader.consumed == plain.consumed == ROWS


def test_unshuffled_is_the_stored_order(dataset):
    loader = Loader(dataset, "valid", replace(CONFIG, batch_size=17), shuffle=False)
    assert torch.cat([batch.row_B for batch in loader]).tolist() == list(range(90))


@pytest.mark.parametrize("change", [{"seed": 4}, {"fingerprint": "other"}, {"shuffle_rows": 7}])
def test_refuses_a_state_of_another_order(dataset, change):
    loader = loaders(dataset, 1)[0]
    with pytest.raises(CheckpointError, match=next(iter(change))):
        loader.load_state_dict({**loader.state_dict(), **change})


def test_an_empty_split_is_named(dataset):
    with pytest.raises(DataError, match=r"split 'test' has no rows; it has train \(503 rows\)"):
        Loader(dataset, "test", CONFIG)


def test_ids_outside_the_vocabulary_name_the_column(tmp_path):
    dataset = write_dataset(tmp_path, {"train": 100})
    field = dataclasses.replace(dataset.schema.categorical[1], vocabulary_size=3)
    fields = (dataset.schema.categorical[0], field, dataset.schema.categorical[2])
    smaller = dataclasses.replace(
        dataset, schema=dataclasses.replace(dataset.schema, categorical=fields)
    )
    with pytest.raises(
        DataError, match=r"column C1 holds ids from \d to \d; schema.json allows 0 to 2"
    ):
        list(Loader(smaller, "train", CONFIG))


def test_ids_are_checked_in_a_file_without_statistics(tmp_path):
    dataset = write_dataset(tmp_path, {"train": 100})
    path = tmp_path / "train/part-00001.parquet"
    table = pq.read_table(path)
    at = table.schema.get_field_index("C1")
    for value in (3, 7):  # in the vocabulary of 7, and just outside
        changed = table.set_column(at, "C1", pa.array([value] * len(table), pa.int32()))
        pq.write_table(changed, path, row_group_size=50, write_statistics=False)
        loader = Loader(dataset, "train", CONFIG)
        if value < 7:
            assert sum(len(batch.label_B) for batch in loader) == 100
        else:
            with pytest.raises(DataError, match=r"00001.parquet: column C1 holds ids from 7 to 7"):
                list(loader)


def test_a_damaged_file_is_named(tmp_path):
    dataset = write_dataset(tmp_path, {"train": 100})
    (tmp_path / "train/part-00001.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"part-00001.parquet: cannot be read"):
        list(Loader(dataset, "train", CONFIG))


def test_a_file_with_other_rows_than_the_manifest_is_named(tmp_path):
    dataset = write_dataset(tmp_path, {"train": 100}, row_group=50)
    table = pq.read_table(tmp_path / "train/part-00000.parquet")
    pq.write_table(table.slice(0, 30), tmp_path / "train/part-00000.parquet")
    with pytest.raises(DataError, match="has 30 rows, the manifest says 50"):
        list(Loader(dataset, "train", CONFIG))


def test_a_directory_without_manifest_is_no_data_set(tmp_path):
    write_dataset(tmp_path, {"train": 100})
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"no manifest.json there.*jobs/preprocess.py"):
        open_dataset(str(tmp_path))


def test_an_altered_schema_is_refused(tmp_path):
    write_dataset(tmp_path, {"train": 100})
    text = (tmp_path / "schema.json").read_text()
    (tmp_path / "schema.json").write_text(
        text.replace('"vocabulary_size": 7', '"vocabulary_size": 9')
    )
    with pytest.raises(DataError, match=r"not the one that manifest.json was written with"):
        open_dataset(str(tmp_path))


def test_a_worker_reads_its_own_streams_only(tmp_path, monkeypatch):
    dataset = write_dataset(tmp_path, {"train": 1600}, files=4, row_group=50)
    config = LoaderConfig(batch_size=80, shuffle_rows=800, lanes=8)
    read = SplitReader._row_group
    counts = [0] * 4
    for rank in range(4):

        def counted(self, group, rank=rank):
            counts[rank] += 1
            return read(self, group)

        monkeypatch.setattr(SplitReader, "_row_group", counted)
        for _ in Loader(dataset, "train", config, rank=rank, world_size=4):
            pass
    assert counts == [8, 8, 8, 8]  # 32 row groups, 4 of them in each of the 8 streams


def test_weights_are_over_their_mean_and_the_label_is_the_chosen_one(tmp_path):
    rows = {"train": ROWS, "valid": 90}
    dataset = write_dataset(tmp_path, rows, weighted=True, labels=("label", "bought"))
    stored = pq.read_table([f"{tmp_path}/{f.path}" for f in dataset.split("train").files])
    weight = stored["__weight"].to_numpy()
    chosen = open_dataset(str(tmp_path), "bought")
    assert chosen.split("train").positives == stored["bought"].to_numpy().sum()
    assert chosen.manifest.fingerprint == dataset.manifest.fingerprint
    for batch in Loader(chosen, "train", CONFIG, seed=3):
        row = batch.row_B.numpy()
        np.testing.assert_allclose(batch.weight_B, weight[row] / weight.mean(), rtol=1e-6)
        np.testing.assert_array_equal(batch.label_B, stored["bought"].to_numpy()[row])


def test_rows_with_label_0_of_a_drawn_split_stand_for_the_others(tmp_path):
    dataset = write_dataset(tmp_path, {"train": ROWS}, weighted=True)
    for batch in Loader(dataset, "train", CONFIG):
        drawn = np.where(batch.label_B == 0, 4, 1) * batch.weight_B.numpy()
        np.testing.assert_allclose(weights_of_log(batch, 0.25), drawn)
        assert weights_of_log(batch, 1.0) is batch.weight_B
        no_weights = replace(batch, weight_B=None)
        np.testing.assert_allclose(
            weights_of_log(no_weights, 0.25), np.where(batch.label_B == 0, 4, 1)
        )


def test_an_unknown_label_is_refused(dataset):
    with pytest.raises(ConfigError, match="--label bought"):
        open_dataset(dataset.path, "bought")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns(["C1"]), "no column C1"),
        (lambda t: t.rename_columns([f"x{n}" for n in t.column_names]), "no column I0, I1, C0"),
        (lambda t: replaced(t, "C1", pa.string()), "column C1 is of type string.* means int32"),
        (lambda t: replaced(t, "I1", pa.float64()), "column I1 is of type double.* means float"),
        (lambda t: replaced(t, "label", pa.bool_()), "column label is of type bool"),
        (lambda t: replaced(t, "__user", pa.string()), "column __user is of type string"),
        (lambda t: t.set_column(t.schema.get_field_index("tags"), "tags", t["C0"]),
         "column tags is of type int32.* means list of int32"),
    ],
)  # fmt: skip
def test_columns_that_are_not_those_of_the_schema_are_named_with_their_file(
    tmp_path, change, message
):
    dataset = write_dataset(tmp_path, {"train": 90}, multi_valued=True, user=True)
    path = tmp_path / dataset.split("train").files[1].path
    pq.write_table(change(pq.read_table(path)), path, row_group_size=50)
    with pytest.raises(DataError, match=f"part-00001.parquet: {message}"):
        list(Loader(dataset, "train", CONFIG))


def replaced(table: pa.Table, name: str, kind: pa.DataType) -> pa.Table:
    index = table.schema.get_field_index(name)
    return table.set_column(index, name, table[name].cast(kind))
