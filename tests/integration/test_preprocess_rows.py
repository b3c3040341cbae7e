"""Which rows of a log are taken, for which split, and with which label and weight; without Ray."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctrdist.data.manifest import SPLITS, open_dataset
from ctrdist.data.report import read_report
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
