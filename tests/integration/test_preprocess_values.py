"""Odd values, from a log to the rows of a data set and its report, without Ray."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ctrdist.data.manifest import open_dataset
from preprocessing.config.settings import ColumnConfig, FormatConfig, PreprocessConfig
from preprocessing.pipeline import preprocess

COLUMNS = [
    ColumnConfig(name="event", role="label", positive=["click"]),
    ColumnConfig(name="time", role="timestamp", format="iso8601", derive=["hour"]),
    ColumnConfig(name="five", role="numeric"),
    ColumnConfig(name="plain", role="numeric", transform="standardise"),
    ColumnConfig(name="huge", role="numeric", numeric_as="both"),
    ColumnConfig(name="range", role="numeric", transform="min_max"),
    ColumnConfig(name="c"),
]


def stored(output: str, split: str) -> dict[str, list]:
    files = open_dataset(output).manifest.splits[split].files
    [file] = [pq.read_table(Path(output) / f.path) for f in files]
    return file.to_pydict()


@pytest.fixture(scope="module")
def data_set(tmp_path_factory) -> str:
    """Values that all training rows share, others in test; numbers up to the largest float32."""
    folder = tmp_path_factory.mktemp("values")
    lines = [
        f"{'click' if i % 3 else 'view'},{2024 if i else 1850}-01-{1 + i % 28:02d}T10:00:00+02:00,"
        f"{5 if i < 90 else 6},{0.1 if i < 90 else 1e30},{'3e38' if i % 2 else '-3e38'},"
        f"{'3e38' if i % 2 else '-3e38'},c{i % 4}\n"
        for i in range(100)
    ]
    (folder / "log.csv").write_text("".join(lines))
    config = PreprocessConfig(
        columns=COLUMNS,
        input=[str(folder / "log.csv")],
        output=str(folder / "out"),
        format=FormatConfig(type="csv"),
        workers=1,
    )
    return preprocess(config, lambda: pytest.fail("Ray")).output


def test_a_constant_number_is_not_scaled_by_its_rounding(data_set):
    train, test = stored(data_set, "train"), stored(data_set, "test")
    assert np.abs(train["five"]).max() < 1e-6
    np.testing.assert_allclose(test["five"], np.log(7 / 6), rtol=1e-6)
    transforms = open_dataset(data_set).manifest.transforms
    assert transforms["five"]["deviation"] == transforms["plain"]["deviation"] == 1


def test_no_value_reaches_a_tower_unbounded(data_set):
    for split in ("train", "valid", "test"):
        rows = stored(data_set, split)
        for name in ("five", "plain", "huge", "range"):
            assert np.isfinite(rows[name]).all() and np.abs(rows[name]).max() <= 1000
        assert np.unique(np.abs(rows["huge"])).size <= 2 and set(rows["range"]) == {0, 1}
    assert stored(data_set, "test")["plain"] == [1000] * 10


def test_labels_and_times_are_those_of_the_texts(data_set):
    rows = stored(data_set, "train")
    assert rows["label"] == [float(i % 3 > 0) for i in range(80)]
    assert rows["time"][1] == 1704182400 and rows["time"][0] == -3786796800
    report = json.loads((Path(data_set) / "report.json").read_text())
    kinds = {(w["kind"], w.get("column")) for w in report["summary"]["warnings"]}
    assert ("years", "time") in kinds and (Path(data_set) / "report.html").stat().st_size
