"""Which rows of a log are taken, for which split, and with which label and weight; without Ray."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctrdist.data.manifest import SPLITS, open_dataset
from ctrdist.data.report import read_report
from ctrdist.errors import DataError
from preprocessing.config.rows import SampleConfig
from preprocessing.config.settings import (
    ColumnConfig,
    FormatConfig,
    PreprocessConfig,
    SplitConfig,
)
from preprocessing.pipeline import Result, preprocess

ROWS = 4000
COLUMNS = [
    ColumnConfig(name="label", role="label"),
    ColumnConfig(name="user", role="user"),
    ColumnConfig(name="item"),
    ColumnConfig(name="row", role="timestamp"),
]


@pytest.fixture
def log(rng) -> pd.DataFrame:
    """Users and items that repeat; the timestamp is the row's index."""
    user, item = rng.integers(0, 40, ROWS), rng.integers(0, 40, ROWS)
    return pd.DataFrame(
        {
            "label": (rng.random(ROWS) < 0.2).astype(int),
            "user": user,
            "item": item,
            "row": 1_700_000_000 + pd.RangeIndex(ROWS),
        }
    )


def made(folder: Path, log: pd.DataFrame, **settings) -> Result:
    """The data set of a log, read by one process."""
    path = folder / "log.csv"
    log.to_csv(path, index=False)
    given = {"columns": COLUMNS, "format": FormatConfig(type="csv", header=True)}
    config = PreprocessConfig(**{**given, **settings}, input=[str(path)], workers=1)
    return preprocess(replace(config, output=str(folder / "out"), overwrite=True), lambda: None)


def table(output: str, split: str) -> pa.Table:
    files = open_dataset(output).manifest.splits[split].files
    return pa.concat_tables([pq.read_table(f"{output}/{file.path}") for file in files])


def test_a_split_by_hash_keeps_a_key_together_whatever_the_label(log, tmp_path):
    split = SplitConfig(by="hash", fractions=[0.6, 0.2, 0.2], key=["user", "item"])
    result = made(tmp_path, log, split=split)
    found = pd.concat(table(result.output, name).to_pandas().assign(s=name) for name in SPLITS)
    log["split"] = found.set_index("row")["s"].reindex(log["row"]).to_numpy()
    splits = log.groupby(["user", "item"])["split"].nunique()
    assert len(found) == ROWS and splits.max() == 1
    assert log["split"].value_counts(normalize=True)["train"] == pytest.approx(0.6, abs=0.05)
    other = log.assign(label=1 - log["label"]).drop(columns="split")
    again = made(tmp_path, other, split=split)
    assert set(table(again.output, "test")["row"].to_pylist()) == set(
        log["row"][log["split"] == "test"]
    )


def test_a_label_that_a_pair_determines_is_in_the_report(log, tmp_path):
    log["label"] = ((log["user"] * 31 + log["item"] * 17) % 5 == 0).astype(int)
    result = made(tmp_path, log)
    kinds = {one["kind"]: one["text"] for one in read_report(result.output)[0]["warnings"]}
    assert "user and item determine the label" in kinds["label_known"]


def test_rows_that_miss_a_condition_count_nowhere(log, tmp_path):
    log["country"] = np.resize(["DE", "FR", "", "US"], ROWS)
    columns = [*COLUMNS, ColumnConfig(name="country", role="ignore")]
    where = [
        {"column": "country", "in": ["DE", None]},
        {"column": "item", "not_in": [7]},
        {"column": "user", "min": 5, "max": 30.5},
        {"column": "row", "min": 1_700_000_100},
    ]
    result = made(tmp_path, log, columns=columns, where=where)
    taken = log["country"].isin(["DE", ""]) & (log["item"] != 7) & log["user"].between(5, 30)
    taken &= log["row"] >= 1_700_000_100
    found = pd.concat(table(result.output, name).to_pandas() for name in SPLITS)
    assert sorted(found["row"]) == sorted(log["row"][taken])
    values = pq.read_table(f"{result.output}/vocabulary/item.parquet")["value"].to_pylist()
    assert "7" not in values and result.vocabulary["user"] == 2 + 26
    summary = read_report(result.output)[0]
    assert summary["rows_left_out"] == {"where": int((~taken).sum())}
    assert summary["rows_read"] == ROWS


def test_conditions_that_cannot_hold_end_the_run_with_what_to_change(log, tmp_path):
    with pytest.raises(DataError, match="none of 4,000 rows meets the conditions of `where`"):
        made(tmp_path, log, where=[{"column": "user", "min": 100}])
    log["item"] = log["item"].astype(str)
    log.loc[17, "item"] = "abc"
    with pytest.raises(DataError, match=r'log.csv:19: `where` compares column item.* is "abc"'):
        made(tmp_path, log, where=[{"column": "item", "max": 30}])


@pytest.mark.parametrize("by", ["position", "hash"])
def test_a_draw_takes_its_share_of_negatives_of_train_alone(log, tmp_path, by):
    split = SplitConfig(by=by)
    whole = made(tmp_path, log, split=split)
    before = {name: table(whole.output, name).to_pandas() for name in SPLITS}
    sample = SampleConfig(negatives=0.25, seed=3)
    drawn = made(tmp_path, log, split=split, sample=sample)
    train = table(drawn.output, "train").to_pandas()
    negatives = int((before["train"]["label"] == 0).sum())
    assert (train["label"] == 0).sum() == pytest.approx(0.25 * negatives, rel=0.12)
    assert set(train["row"]) < set(before["train"]["row"])
    assert (train["label"] == 1).sum() == (before["train"]["label"] == 1).sum()
    for name in ("valid", "test"):
        np.testing.assert_array_equal(table(drawn.output, name)["row"], before[name]["row"])
    splits = drawn.manifest.splits
    assert [splits[name].negatives_kept for name in SPLITS] == [0.25, 1, 1]
    assert open_dataset(drawn.output).manifest == drawn.manifest
    counted = pq.read_table(f"{drawn.output}/vocabulary/user.parquet")["count"].to_numpy().sum()
    assert counted == len(train) == splits["train"].rows
    summary = read_report(drawn.output)[0]
    assert summary["rows_read"] == ROWS
    assert summary["rows_left_out"] == {"sample": len(before["train"]) - len(train)}
    kinds = {one["kind"] for one in summary["warnings"]}
    assert not kinds & {"click_rate", "drift"}


def test_a_draw_of_small_shards_is_that_of_one(log, tmp_path):
    sample = SampleConfig(negatives=0.25, seed=3, splits=["train", "test"])
    one = made(tmp_path, log, sample=sample, shuffle=True)
    first = sorted(table(one.output, "train")["row"].to_pylist())
    many = made(tmp_path, log, sample=sample, shuffle=True, shard_bytes=3000)
    assert len(many.manifest.splits["test"].files) > 1
    assert sorted(table(many.output, "train")["row"].to_pylist()) == first
    assert many.manifest.splits["test"].rows == one.manifest.splits["test"].rows < ROWS // 10


def test_weights_and_further_labels_are_stored_as_given(log, tmp_path, rng):
    log["bought"] = log["label"] * (rng.random(ROWS) < 0.3)
    log["pay"] = rng.integers(0, 9, ROWS) / 4
    columns = [
        *COLUMNS,
        ColumnConfig(name="pay", role="weight"),
        ColumnConfig(name="bought", role="label"),
    ]
    result = made(tmp_path, log, columns=columns)
    schema = open_dataset(result.output).schema
    assert (schema.weight, schema.labels) == ("__weight", ("label", "bought"))
    for name in SPLITS:
        split, found = result.manifest.splits[name], table(result.output, name).to_pandas()
        given = log.set_index("row").loc[found["row"]]
        np.testing.assert_array_equal(found["__weight"], given["pay"])
        np.testing.assert_array_equal(found["bought"], given["bought"])
        assert split.weight == given["pay"].sum()
        assert split.labels == {"bought": given["bought"].sum()}
    log.loc[5, "pay"] = -1
    with pytest.raises(DataError, match=r'log.csv:7: column pay wants a number from 0 .* "-1.0"'):
        made(tmp_path, log, columns=columns)
