"""Logs that are odd are described with a doubt, or refused with what to do."""

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from ctrdist.errors import ConfigError, DataError
from preprocessing.config.describe import DescribeConfig
from preprocessing.describe.draft import draft
from preprocessing.describe.log import describe_log

ROWS = [f"{i % 2},{i % 7},{i}.5" for i in range(200)]
TEXT = "\n".join(["click,site,price", *ROWS]) + "\n"


def described(path: Path, **settings: str) -> dict:
    guesses, _ = describe_log(DescribeConfig(input=[str(path)], **settings))
    return yaml.safe_load(draft(guesses)) | {"doubts": " ".join(guesses.doubts)}


def roles(found: dict) -> dict[str, str]:
    return {c["name"]: c.get("role", "categorical") for c in found["columns"]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", TEXT.encode("utf-16"), "iconv"),
        ("a.zip", b"PK\x03\x04....", "unpack"),
        ("a.csv", gzip.compress(TEXT.encode()), "does not end in .gz"),
        ("a.csv", TEXT.replace("\n", "\r").encode(), "carriage return"),
        ("a.json", json.dumps([{"a": 1}] * 9).encode(), r"jq -c '\.\[\]'"),
        ("a.json", b'{\n "a": 1\n}\n{\n "a": 2\n}\n', "over several lines"),
        ("a.csv", b"click,site,user\n", "no rows below the header"),
        ("a.csv", b"", "empty"),
    ],
)
def test_what_is_no_log_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        described(tmp_path / name)


def test_a_header_within_the_file_is_left_out_as_a_bad_row(tmp_path):
    (tmp_path / "a.csv").write_text(TEXT + TEXT)
    found = described(tmp_path)
    assert found["bad_rows"]["policy"] == "quarantine"
    assert roles(found)["click"] == "label"


def test_a_file_without_the_header_of_the_others_is_refused(tmp_path):
    (tmp_path / "p0.csv").write_text(TEXT)
    (tmp_path / "p1.csv").write_text("\n".join(ROWS))
    with pytest.raises(DataError, match=r"p1\.csv does not begin with a header"):
        described(tmp_path)


def test_a_column_that_a_file_lacks_is_left_out(tmp_path):
    (tmp_path / "p0.csv").write_text(TEXT)
    (tmp_path / "p1.csv").write_text("\n".join(["price,click", *["2.5,1", "3.5,0"] * 50]))
    assert roles(described(tmp_path)) == {"click": "label", "price": "numeric"}


def test_a_file_without_the_label_is_left_out(tmp_path):
    (tmp_path / "train.csv").write_text(TEXT)
    (tmp_path / "test.csv").write_text("\n".join(["site,price", *["2,3.5"] * 50]))
    guesses, inputs = describe_log(DescribeConfig(input=[str(tmp_path)]))
    assert inputs == [str(tmp_path / "train.csv")]
    assert "test.csv" in guesses.doubts[0]
    assert guesses.split.settings["by"] == "hash"


def test_names_that_a_yaml_cannot_name_are_left_out(tmp_path):
    names = ["click", "", "C1..C3", "a: b #", "x"]
    columns = [pa.array([i % k for i in range(60)]) for k in (2, 3, 4, 5, 6)]
    pq.write_table(pa.Table.from_arrays(columns, names), tmp_path / "a.parquet")
    assert roles(described(tmp_path)) == {
        "click": "label", "a: b #": "categorical", "x": "categorical",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "settings"),
    [
        (["True", "False"], {"positive": ["True"]}),
        (["yes", "no"], {"positive": ["yes"]}),
        (["-1", "1"], {"threshold": 1}),
        (["1", "2"], {"threshold": 2}),
        (["1.0", "0.0"], {}),
        (["0", "3", "1", "2"], {"threshold": 1}),
        (["1", "3", "2", "5", "4"], {"threshold": 4}),
        (["pv", "buy", "cart"], {"positive": ["buy"]}),
        (["click", "impression"], {"positive": ["click"]}),
    ],
)
def test_labels_of_any_kind(tmp_path, values, settings):
    rows = [f"{values[i % len(values)]},{i % 7}" for i in range(210)]
    (tmp_path / "a.csv").write_text("\n".join(["label,site", *rows]))
    column = described(tmp_path)["columns"][0]
    assert column == {"name": "label", "role": "label", **settings}


def test_further_outcomes_are_labels_and_no_features(tmp_path):
    rows = [f"{i % 7},{i % 6 // 5},{i % 2}" for i in range(200)]
    (tmp_path / "a.csv").write_text("\n".join(["site,is_order,click", *rows]))
    expected = {"click": "label", "site": "categorical", "is_order": "label"}
    assert [*roles(described(tmp_path)).items()] == [*expected.items()]
    asked = {"is_order": "label", "site": "categorical", "click": "label"}
    assert [*roles(described(tmp_path, label="is_order")).items()] == [*asked.items()]


def test_a_feature_may_not_have_the_name_of_the_data_sets_own_column(tmp_path):
    rows = [f"{i % 7},{'abc'[i % 3]},{i % 2}" for i in range(200)]
    (tmp_path / "a.csv").write_text("\n".join(["site,label,click", *rows]))
    assert roles(described(tmp_path)) == {"click": "label", "site": "categorical"}


@pytest.mark.parametrize(
    ("form", "settings"),
    [
        ("{}", {}),
        ("{}123", {"unit": "ms"}),
        ("{}123456", {"unit": "us"}),
        ("%Y-%m-%dT%H:%M:%S+02:00", {"format": "iso8601"}),
        ("%Y%m%d%H", {"format": "%Y%m%d%H"}),
        ("%y%m%d%H", {"format": "%y%m%d%H"}),
        ("%d/%m/%Y %H:%M", {"format": "%d/%m/%Y %H:%M"}),
    ],
)
def test_times_of_any_form(tmp_path, form, settings):
    seconds = [1_600_000_000 + 3_601 * 9 * i for i in range(400)]
    texts = [datetime.fromtimestamp(s, UTC).strftime(form.format(s)) for s in seconds]
    rows = [f"{text},{i % 2},{i % 7}" for i, text in enumerate(texts)]
    (tmp_path / "a.csv").write_text("\n".join(["event_time,click,site", *rows]))
    found = described(tmp_path)
    column = found["columns"][1]
    assert found["split"]["by"] == "time"
    assert column.pop("derive") == ["hour", "weekday"]
    assert column == {"name": "event_time", "role": "timestamp", **settings}


def test_a_label_that_is_asked_for_must_be_one(tmp_path):
    (tmp_path / "a.csv").write_text(TEXT)
    assert roles(described(tmp_path, label="site"))["site"] == "label"
    with pytest.raises(ConfigError, match="--label price: it holds 200 values"):
        described(tmp_path, label="price")
    with pytest.raises(ConfigError, match="no such column; there are click, site, price"):
        described(tmp_path, label="y")


def test_texts_for_missing_values(tmp_path):
    rows = [
        f"{i % 2},{'NULL' if i % 5 == 0 else i % 7},{'-' if i % 3 else i / 8}" for i in range(300)
    ]
    (tmp_path / "a.csv").write_text("\n".join(["click,site,price", *rows]))
    found = described(tmp_path)
    assert found["format"]["missing"] == ["", "NULL"]
    assert found["columns"][2] == {"name": "price", "role": "numeric", "missing_texts": ["-"]}
