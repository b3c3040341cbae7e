"""What the times of a raw log become; both scans agree."""

import numpy as np
import pyarrow as pa
import pytest

from ctrdist.errors import ConfigError, DataError
from preprocessing.config.settings import ColumnConfig

LABEL = ColumnConfig(name="label", role="label")
C = ColumnConfig(name="c")

NOON = 1_704_110_400
"""2024-01-01T12:00:00Z."""


@pytest.mark.parametrize(
    ("form", "texts", "seconds"),
    [
        ("%y%m%d%H", ["24010112", "24010113"], [NOON, NOON + 3600]),
        ("%Y-%m-%d %H:%M:%S", ["2024-01-01 12:00:00", "1969-12-31 23:59:59"], [NOON, -1]),
        ("%Y-%m-%d %H:%M:%S.%f", ["2024-01-01 12:00:00.9", "1969-12-31 23:59:59.5"], [NOON, -1]),
        ("%d/%b/%Y:%H:%M:%S %z", ["01/Jan/2024:14:00:00 +0200"], [NOON]),
        ("%Y%m%d", ["20240101", "99991231", "18500101"], [NOON - 43200, 253402214400, -3786825600]),
        ("iso8601", ["2024-01-01T12:00:00Z", "2024-01-01", "2024-01-01T14:00+02:00"],
         [NOON, NOON - 43200, NOON]),
        ("ISO8601", ["2024-01-01 12:00:00.123456789", "20240101T120000Z", "9999-12-31T23:59:59"],
         [NOON, NOON, 253402300799]),
    ],
)  # fmt: skip
def test_times_that_are_texts(tmp_path, form, texts, seconds, read):
    column = ColumnConfig(name="t", role="timestamp", format=form)
    log = "".join(f"0\t{text}\tx\n" for text in texts).encode()
    assert read(tmp_path / "a.tsv", "tsv", log, column, C)["timestamp"] == seconds
    rows = [{"label": 0, "t": text} for text in texts]
    assert read(tmp_path / "a.jsonl", "jsonl", rows, column, C)["timestamp"] == seconds
    table = pa.table({"label": [0] * len(texts), "t": texts, "c": texts})
    assert read(tmp_path / "a.parquet", "parquet", table, column, C)["timestamp"] == seconds


@pytest.mark.parametrize(
    ("unit", "texts", "seconds"),
    [
        ("s", ["1704110400", "-1", "1.7041104e9", "1704110400.75"], [NOON, -1, NOON, NOON]),
        ("ms", ["1704110400999", "-1"], [NOON, -1]),
        ("us", ["1704110400999999", "-1"], [NOON, -1]),
        ("ns", ["1704110400999999999", "-1"], [NOON, -1]),
    ],
)
def test_times_that_are_numbers(tmp_path, unit, texts, seconds, read):
    column = ColumnConfig(name="t", role="timestamp", unit=unit)
    log = "".join(f"0\t{text}\tx\n" for text in texts).encode()
    assert read(tmp_path / "a.tsv", "tsv", log, column, C)["timestamp"] == seconds
    rows = [f'{{"label": 0, "t": {text}}}' for text in texts]
    assert read(tmp_path / "a.jsonl", "jsonl", rows, column, C)["timestamp"] == seconds
    table = pa.table({"label": [0] * len(texts), "t": [float(t) for t in texts], "c": texts})
    found = read(tmp_path / "a.parquet", "parquet", table, column, C)["timestamp"]
    assert np.abs(np.subtract(found, seconds)).max() <= 1  # a double has 53 bits


@pytest.mark.parametrize(
    ("kind", "raw", "seconds"),
    [
        (pa.timestamp("s"), [NOON, -1], [NOON, -1]),
        (pa.timestamp("ms", "Europe/Berlin"), [NOON * 1000 + 999, -1], [NOON, -1]),
        (pa.timestamp("us", "UTC"), [NOON * 10**6, -1], [NOON, -1]),
        (pa.timestamp("ns"), [NOON * 10**9 + 1, -1], [NOON, -1]),
        (pa.date32(), [NOON // 86400, -1], [NOON - 43200, -86400]),
        (pa.date64(), [(NOON - 43200) * 1000, -86400000], [NOON - 43200, -86400]),
    ],
    ids=str,
)
@pytest.mark.parametrize("form", [None, "iso8601"])
def test_times_of_parquet_need_no_format(tmp_path, kind, raw, seconds, form, read):
    width = pa.int32() if kind == pa.date32() else pa.int64()
    table = pa.table({"label": [0, 1], "c": ["x", "y"], "t": pa.array(raw, width).cast(kind)})
    column = ColumnConfig(name="t", role="timestamp", format=form)
    assert read(tmp_path / "a.parquet", "parquet", table, column, C)["timestamp"] == seconds


def test_integers_of_parquet_may_be_dates(tmp_path, read):
    table = pa.table({"label": [0], "c": ["x"], "t": [24010112]})
    column = ColumnConfig(name="t", role="timestamp", format="%y%m%d%H")
    assert read(tmp_path / "a.parquet", "parquet", table, column, C)["timestamp"] == [NOON]


@pytest.mark.parametrize(
    ("form", "text", "message"),
    [
        (None, "2024-01-01", r'wants a number \(seconds\), got "2024-01-01"\. .*set `format`'),
        (None, "", r"wants a number \(seconds\), got nothing\. Fix the row, or correct"),
        (None, "1e30", r"wants a number \(seconds\)"),
        ("iso8601", "now", 'wants a time of the format iso8601, got "now"'),
        ("iso8601", "2024-02-30", "wants a time of the format iso8601"),
        ("%Y", "today", 'wants a time of the format %Y, got "today"'),
        ("%y%m%d%H", "24013112x", "wants a time of the format %y%m%d%H"),
        ("%y%m%d%H", "", "wants a time of the format %y%m%d%H, got nothing"),
    ],
)
def test_what_is_no_time_is_refused(tmp_path, form, text, message, read, refused):
    column = ColumnConfig(name="t", role="timestamp", format=form)
    log = f"0,{text},x\n".encode()
    with pytest.raises(DataError, match=rf"a\.csv:1: column t {message}"):
        read(tmp_path / "a.csv", "csv", log, column, C)
    assert refused(tmp_path / "a.jsonl", "jsonl", [{"label": 0, "t": text or None}], column, C)
    spans = pa.table({"label": [0], "c": ["x"], "t": pa.array([5], pa.duration("s"))})
    assert "row 1: column t" in refused(tmp_path / "a.parquet", "parquet", spans, column, C)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"role": "timestamp", "format": "%q"}, "the format of x is '%q', which cannot be read"),
        ({"role": "timestamp", "format": "mixed"}, "has no directive"),
        ({"role": "timestamp", "format": "%s"}, "cannot be read"),
        ({"format": "%Y"}, "x has `format`, which is for the role timestamp, and its role is cat"),
        ({"positive": ["a"]}, "x has `positive`, which is for the role label"),
        ({"text": "json"}, "x has `text`, which is for the role multi_valued"),
        ({"role": "label", "positive": ["a"], "threshold": 1.0}, "both `positive` and `threshold`"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path, column, message, config_of):
    columns = [ColumnConfig(name="x", **column), C]
    columns += [] if column.get("role") == "label" else [LABEL]
    with pytest.raises(ConfigError, match=message):
        config_of(tmp_path, "csv", columns)
