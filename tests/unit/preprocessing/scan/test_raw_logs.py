"""What a raw log of any format becomes; the fast scan and the slow one agree about all of it."""

import datetime as dt
import decimal
import gzip
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctrdist.errors import ConfigError, DataError
from ctrdist.features.encode import LocalRows
from preprocessing.config.checks import check_config
from preprocessing.config.settings import ColumnConfig, FormatConfig, PreprocessConfig
from preprocessing.scan.scanner import Scanner
from preprocessing.sources.quarantine import clean
from preprocessing.sources.reader import read_raw_blocks, with_matched_columns
from preprocessing.sources.shards import find_input_splits

LABEL = ColumnConfig(name="label", role="label")


def write(path: Path, kind: str, rows: Any) -> None:
    """Writes rows: bytes as they are, dicts as JSON lines, an Arrow table as Parquet."""
    if isinstance(rows, bytes):
        path.write_bytes(rows)
    elif kind == "jsonl":
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("".join(f"{line}\n" for line in lines))
    else:
        pq.write_table(rows, path)


def config_of(path: Path, kind: str, columns: list[ColumnConfig], **layout) -> PreprocessConfig:
    config = PreprocessConfig(
        columns=columns, input=[str(path)], format=FormatConfig(type=kind, **layout)
    )
    check_config(config)
    return config


def values(rows: LocalRows, scanner: Scanner) -> dict[str, list]:
    """The values of each column of a block."""
    found: dict[str, list] = {"label": rows.label.tolist()}
    if rows.timestamp is not None:
        found["timestamp"] = rows.timestamp.tolist()
    for name, numbers in rows.numbers.items():
        found[name] = [None if np.isnan(x) else x for x in numbers.tolist()]
    texts = {name: [*d.values().to_pylist(), None] for name, d in scanner.dictionaries.items()}
    for name, ids in rows.local_ids.items():
        found[name] = [texts[name][i] for i in ids]
    for name, (ends, ids) in rows.lists.items():
        flat = [texts[name][i] for i in ids]
        found[name] = [flat[a:b] for a, b in pairwise(ends)]
    return found


def read(path: Path, kind: str, rows: Any, *columns: ColumnConfig, **layout) -> dict[str, list]:
    """The values of a log of one block; `columns` come after the label unless they have one."""
    write(path, kind, rows)
    known = list(columns)
    if not any(column.role == "label" for column in columns):
        known.insert(0, LABEL)
    config = config_of(path, kind, known, **layout)
    [split] = find_input_splits(config)
    [block] = read_raw_blocks(split, config)
    slow = Scanner(config)
    expected = values(slow.scan_table(block.parse()), slow)
    fast = Scanner(config)
    scanned = fast.scan(block)
    if scanned is not None:
        assert values(scanned, fast) == expected
    good, bad = clean(block, config)
    again = Scanner(config)
    assert not bad and values(again.scan_table(good), again) == expected
    return expected


def refused(path: Path, kind: str, rows: Any, *columns: ColumnConfig, **layout) -> str:
    """The message of the only row that is refused."""
    with pytest.raises(DataError) as caught:
        read(path, kind, rows, *columns, **layout)
    known = list(columns) if any(c.role == "label" for c in columns) else [LABEL, *columns]
    config = config_of(path, kind, known, **layout)
    [block] = read_raw_blocks(find_input_splits(config)[0], config)
    assert Scanner(config).scan(block) is None
    _, [bad] = clean(block, config)
    assert f": {bad.reason}. " in str(caught.value)
    return str(caught.value)


# ---- ids ----


def test_ids_that_became_floats_keep_their_texts(tmp_path):
    """As pandas makes of integers with a missing value among them."""
    ids = [5.0, float("nan"), -0.0, None, 1.5, 2.0**53, 1e16, float("inf")]
    texts = ["5", "", "0", "", "1.5", str(2**53), str(10**16), "inf"]
    table = pa.table({"label": [0] * 8, "c": ids, "u": ids, "m": [[x, 5.0] for x in ids]})
    columns = [
        ColumnConfig(name="c"),
        ColumnConfig(name="u", role="user"),
        ColumnConfig(name="m", role="multi_valued"),
    ]
    found = read(tmp_path / "a.parquet", "parquet", table, *columns)
    assert found["c"] == found["u"] == texts
    assert found["m"] == [[t, "5"] if t else ["5"] for t in texts]
    rows = [
        '{"label": 0, "c": %s, "u": %s, "m": [%s, 5.0]}' % (x, x, x)  # noqa: UP031
        for x in ["5.0", "NaN", "-0.0", "null", "1.5", f"{2.0**53}", "1e16", "Infinity"]
    ]
    assert read(tmp_path / "a.jsonl", "jsonl", rows, *columns) == found


def test_a_text_is_its_category_as_it_stands(tmp_path):
    """5.0 may be a version: in a text, and in JSON's quotes, it is not 5."""
    column = ColumnConfig(name="c")
    found = read(tmp_path / "a.csv", "csv", b"0,5.0\n0,5\n0,nan\n", column)
    assert found["c"] == ["5.0", "5", "nan"]
    rows = [{"label": 0, "c": "5.0"}, {"label": 0, "c": 5.0}, {"label": 0, "c": 1e3}]
    assert read(tmp_path / "a.jsonl", "jsonl", rows, column)["c"] == ["5.0", "5", "1000"]


@pytest.mark.parametrize(
    ("array", "texts"),
    [
        (pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
        (pa.array(["a", None, ""], pa.large_string()), ["a", "", ""]),
        (pa.array(["a", None, ""], pa.string_view()), ["a", "", ""]),
        (pa.array([True, None, False]), ["true", "", "false"]),
        (pa.array([decimal.Decimal("5.00"), None, decimal.Decimal("1.50")]), ["5", "", "1.5"]),
        (pa.array([dt.date(2024, 1, 31), None]), ["2024-01-31", ""]),
        (pa.array([b"ab", b"\xff\x00", None]), ["ab", "ff00", ""]),
        (pa.array([b"ab", b"\xff\x00"], pa.binary(2)), ["ab", "ff00"]),
        (pa.array([1, 2**63], pa.uint64()), ["1", str(2**63)]),
        (pa.array([1.5, 2, None], pa.float32()), ["1.5", "2", ""]),
        (pa.array([None, None], pa.null()), ["", ""]),
    ],
    ids=lambda x: str(getattr(x, "type", "")),
)
def test_each_type_of_parquet_has_its_text(tmp_path, array, texts):
    table = pa.table({"label": [0] * len(array), "c": array})
    assert read(tmp_path / "a.parquet", "parquet", table, ColumnConfig(name="c"))["c"] == texts


@pytest.mark.parametrize(
    ("array", "numbers"),
    [
        (pa.array([True, None, False]), [1, None, 0]),
        (pa.array([decimal.Decimal("5.25"), None]), [5.25, None]),
        (pa.array([2**60, -(2**63)]), [2.0**60, -(2.0**63)]),
        (pa.array(["1.5", "TRUE", "nan"]).dictionary_encode(), [1.5, 1, None]),
        (pa.array(["7", None], pa.large_string()), [7, None]),
        (pa.array([1.5, float("nan")], pa.float16()), [1.5, None]),
        (pa.array([None, None], pa.null()), [None, None]),
    ],
    ids=lambda x: str(getattr(x, "type", "")),
)
def test_each_type_of_parquet_has_its_number(tmp_path, array, numbers):
    table = pa.table({"label": [0] * len(array), "x": array})
    column = ColumnConfig(name="x", role="numeric")
    assert read(tmp_path / "a.parquet", "parquet", table, column)["x"] == numbers


def test_types_without_a_value_are_refused_with_their_row(tmp_path):
    table = pa.table({"label": [0, 0], "c": pa.array([None, {"a": 1}])})
    message = refused(tmp_path / "a.parquet", "parquet", table, ColumnConfig(name="c"))
    assert "a.parquet: row 2: column c wants one value, got" in message
    dates = pa.table({"label": [0, 0], "x": pa.array([None, dt.date(2024, 1, 1)])})
    number = ColumnConfig(name="x", role="numeric")
    assert 'got "2024-01-01"' in refused(tmp_path / "a.parquet", "parquet", dates, number)
    nested = pa.table({"label": [0, 0], "m": pa.array([[[1]], None])})
    many = ColumnConfig(name="m", role="multi_valued")
    assert "row 1: column m wants" in refused(tmp_path / "a.parquet", "parquet", nested, many)


# ---- numbers ----


@pytest.mark.parametrize("text", ["null", "NULL", "\\N", "NA", "None", "N/A"])
@pytest.mark.parametrize("kind", ["number", "integer"])
def test_texts_for_missing_numbers_are_named(tmp_path, text, kind):
    log = f"0,1\n0,{text}\n".encode()
    column = ColumnConfig(name="x", role="numeric", type=kind)
    message = refused(tmp_path / "a.csv", "csv", log, column)
    assert message.endswith("add it to format.missing, or to missing_texts of the column, in the "
                            "data-set YAML.")  # fmt: skip
    own = ColumnConfig(name="x", role="numeric", type=kind, missing_texts=[text])
    assert read(tmp_path / "a.csv", "csv", log, own)["x"] == [1, None]
    assert read(tmp_path / "a.csv", "csv", log, column, missing=["", text])["x"] == [1, None]


def test_nan_is_a_missing_number(tmp_path):
    x = ColumnConfig(name="x", role="numeric")
    assert read(tmp_path / "a.csv", "csv", b"0,nan\n0,NaN\n0,2\n", x)["x"] == [None, None, 2]
    whole = ColumnConfig(name="x", role="numeric", type="integer")
    assert "add it to format.missing" in refused(tmp_path / "a.csv", "csv", b"0,nan\n", whole)


def test_missing_texts_belong_to_one_column(tmp_path):
    columns = [ColumnConfig(name="a", missing_texts=["-1", "?"]), ColumnConfig(name="b")]
    assert read(tmp_path / "a.csv", "csv", b"0,-1,-1\n0,?,?\n0,,\n", *columns) == {
        "label": [0, 0, 0], "a": ["", "", ""], "b": ["-1", "?", ""],
    }  # fmt: skip
    rows = [{"label": 0, "a": "?", "b": "?"}, {"label": 0, "a": "x", "b": None}]
    found = read(tmp_path / "a.jsonl", "jsonl", rows, *columns)
    assert found["a"] == ["", "x"] and found["b"] == ["?", ""]


@pytest.mark.parametrize("text", ["1e308", "-1e39", "inf", "1e999"])
def test_numbers_that_float32_lacks_are_refused(tmp_path, text):
    column = ColumnConfig(name="x", role="numeric")
    message = refused(tmp_path / "a.csv", "csv", f"0,1\n0,{text}\n".encode(), column)
    assert f'a.csv:2: column x wants a finite number, got "{text}". Fix the row: ' in message
    table = pa.table({"label": [0, 0], "x": [1.0, float(text)]})
    assert "row 2" in refused(tmp_path / "a.parquet", "parquet", table, column)


@pytest.mark.parametrize("kind", ["number", "integer"])
def test_true_and_false_are_numbers(tmp_path, kind):
    column = ColumnConfig(name="x", role="numeric", type=kind)
    found = read(tmp_path / "a.csv", "csv", b"0,true\n0,False\n0,TRUE\n0,3\n", column)
    assert found["x"] == [1, 0, 1, 3]
    rows = [{"label": 0, "x": "True"}, {"label": 0, "x": False}]
    assert read(tmp_path / "a.jsonl", "jsonl", rows, column)["x"] == [1, 0]


# ---- labels ----

POSITIVE = ColumnConfig(name="label", role="label", positive=["click", "true", 1])
C = ColumnConfig(name="c")


def test_positive_values_make_the_label(tmp_path):
    texts = ["click", "true", "True", "1", "1.0", "view", "", "false", "0", "Click"]
    log = "".join(f"{text},x\n" for text in texts).encode()
    expected = [1, 1, 1, 1, 1, 0, 0, 0, 0, 0]
    assert read(tmp_path / "a.csv", "csv", log, POSITIVE, C)["label"] == expected
    rows = [{"label": text} for text in texts[:6]] + [{}, {"label": False}, {"label": True}]
    rows += [{"label": 1}, {"label": 1.0}, {"label": 2}]
    found = read(tmp_path / "a.jsonl", "jsonl", rows, POSITIVE, C)["label"]
    assert found == [*expected[:6], 0, 0, 1, 1, 1, 0]
    for array in (pa.array([True, False, None]), pa.array([1, 0, 3]), pa.array([1.0, 0.0, None])):
        table = pa.table({"label": array, "c": ["x"] * 3})
        assert read(tmp_path / "a.parquet", "parquet", table, POSITIVE, C)["label"] == [1, 0, 0]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_true_and_false_are_labels(tmp_path, kind):
    words = ["true", "FALSE", "True", "0"]
    log = b"".join(f"{word},x\n".encode() for word in words)
    rows = [{"label": word, "c": "x"} for word in words]
    got = read(tmp_path / "a", kind, log if kind == "csv" else rows, LABEL, C)
    assert got["label"] == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("", r"got nothing\. Fix the row, or leave .*bad_rows: \{policy: quarantine\}.*`positive`"),
        ("clock", r'got "clock"\. Fix the row, or name the label\'s `positive` values'),
        ("3", r'got "3"\. Fix the row, or set `threshold` .*`positive` values'),
        ("-1", r'got "-1"\. Fix the row, or set `threshold` .*`positive` values'),
    ],
)
def test_the_advice_for_a_label_helps(tmp_path, text, advice):
    log = f"1,x\n{text},x\n".encode()
    with pytest.raises(DataError, match=advice):
        read(tmp_path / "a.csv", "csv", log, LABEL, C)
    assert read(tmp_path / "a.csv", "csv", log, POSITIVE, C)["label"] == [1, 0]
    if text in ("3", "-1"):
        label = ColumnConfig(name="label", role="label", threshold=1)
        assert read(tmp_path / "a.csv", "csv", log, label, C)["label"] == [1, float(text) > 0]
    label = ColumnConfig(name="label", role="label", threshold=1)
    if text in ("", "clock"):
        assert "threshold" not in refused(tmp_path / "a.csv", "csv", log, label, C)


# ---- times ----

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
def test_times_that_are_texts(tmp_path, form, texts, seconds):
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
def test_times_that_are_numbers(tmp_path, unit, texts, seconds):
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
def test_times_of_parquet_need_no_format(tmp_path, kind, raw, seconds, form):
    width = pa.int32() if kind == pa.date32() else pa.int64()
    table = pa.table({"label": [0, 1], "c": ["x", "y"], "t": pa.array(raw, width).cast(kind)})
    column = ColumnConfig(name="t", role="timestamp", format=form)
    assert read(tmp_path / "a.parquet", "parquet", table, column, C)["timestamp"] == seconds


def test_integers_of_parquet_may_be_dates(tmp_path):
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
def test_what_is_no_time_is_refused(tmp_path, form, text, message):
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
def test_settings_that_cannot_work_are_refused(tmp_path, column, message):
    columns = [ColumnConfig(name="x", **column), C]
    columns += [] if column.get("role") == "label" else [LABEL]
    with pytest.raises(ConfigError, match=message):
        config_of(tmp_path, "csv", columns)


# ---- text ----


def test_escapes_as_spark_and_databases_write_them(tmp_path):
    log = (
        b'0,"say \\"hi\\", then",1\n0,a\\,b,2\n0,\\\\,3\n0,\\N,\\N\n0,"\\\\",\\N\r\n'
        b'0,"doubled ""too""",4\n0,x\\Ny,5\n'
    )
    columns = [ColumnConfig(name="c"), ColumnConfig(name="x", role="numeric")]
    found = read(tmp_path / "a.csv", "csv", log, *columns, escape="\\", missing=["", "\\N"])
    assert found["c"] == ['say "hi", then', "a,b", "\\", "", "\\", 'doubled "too"', "xNy"]
    assert found["x"] == [1, 2, 3, None, None, 4, 5]
    tsv = b"0\ta\\\tb\t1\n1\t\\N\t\\N\n0\t\\\\N\t2\n"
    found = read(tmp_path / "a.tsv", "tsv", tsv, *columns, escape="\\\\", missing=["\\N"])
    assert found["c"] == ["a\tb", "", ""] and found["x"] == [1, None, 2]


def test_an_escape_at_the_end_of_a_line_is_refused(tmp_path):
    for end in (b"\\\n", b"\\\r\n", b"\\\\\\\n"):
        message = refused(tmp_path / "a.csv", "csv", b"0,a\n0,b" + end, C, escape="\\")
        assert "a.csv:2: an escape (\\) before the end of the line. Fix the row." in message
    assert read(tmp_path / "a.csv", "csv", b"0,b\\\\\n", C, escape="\\")["c"] == ["b\\"]


def test_logs_with_missing_values_alone_are_scanned_fast(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes(b"0\ta\t\\N\n1\t\\N\t3\n")
    columns = [LABEL, C, ColumnConfig(name="x", role="numeric")]
    config = config_of(path, "tsv", columns, escape="\\", missing=["\\N"])
    [block] = read_raw_blocks(find_input_splits(config)[0], config)
    assert Scanner(config).scan(block) is not None


def test_blanks_around_values_are_no_part_of_them(tmp_path):
    columns = [C, ColumnConfig(name="x", role="numeric"), ColumnConfig(name="d")]
    log = b' 0 , State-gov ,  39,x y\n1,  ,  ,\r\n1, "a, ""b"" " , 7 , "c" \n0,NA , 1 , NA \r\n'
    found = read(tmp_path / "a.csv", "csv", log, *columns, skip_blank=True, missing=["", "NA"])
    assert found == {
        "label": [0, 1, 1, 0], "c": ["State-gov", "", 'a, "b"', ""], "x": [39, None, 7, 1],
        "d": ["x y", "", "c", ""],
    }  # fmt: skip
    log = b" label , c , x , d \n 1 , 2 , 3 , 4 \n"
    found = read(tmp_path / "a.csv", "csv", log, *columns, skip_blank=True, header=True)
    assert found == {"label": [1], "c": ["2"], "x": [3], "d": ["4"]}
    message = refused(tmp_path / "a.csv", "csv", b"0,a, 1,d\n", *columns)
    assert 'got " 1". Fix the row, or set format.skip_blank to true' in message


@pytest.mark.parametrize(
    ("given", "separator"),
    [("\\t", "\t"), ("\t", "\t"), ("\\x01", "\1"), ("\\u0001", "\1"), ("\\001", "\1"), ("|", "|")],
)
def test_separators_may_be_written_as_escapes(tmp_path, given, separator):
    many = ColumnConfig(name="m", role="multi_valued", separator=given.replace("|", "\\x02"))
    log = f"0{separator}a{separator}b\n".encode()
    assert read(tmp_path / "a", "csv", log, C, ColumnConfig(name="d"), separator=given)["d"]
    inner = "\2" if separator == "|" else separator
    rows = [{"label": 0, "m": inner.join("ab")}]
    assert read(tmp_path / "a", "jsonl", rows, many)["m"] == [["a", "b"]]


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"escape": "ab"}, "format.escape is 'ab'; give one ASCII character"),
        ({"escape": '"'}, "format.escape is"),
        ({"escape": "\\", "separator": "::"}, "format.escape is"),
        ({"separator": "\\n"}, "format.separator has a line end"),
        ({"separator": " ", "skip_blank": True}, "format.separator has a blank at an end"),
        ({"kind": "jsonl", "skip_blank": True}, "format.skip_blank is given, and format.type is"),
    ],
)
def test_layouts_that_cannot_be_read_are_refused(tmp_path, layout, message):
    kind = layout.pop("kind", "csv")
    with pytest.raises(ConfigError, match=message):
        read(tmp_path / "a", kind, b"0,a\n", C, **layout)


ZST_OF_NOTHING = bytes.fromhex("28b52ffd2000010000")
EMPTY = {
    ".gz": gzip.compress,
    ".zst": lambda raw: pa.compress(raw, codec="zstd", asbytes=True) if raw else ZST_OF_NOTHING,
    "": bytes,
}


@pytest.mark.parametrize("packing", EMPTY)
@pytest.mark.parametrize("content", [b"", b"label,c\n", b"\n", b"\xef\xbb\xbf"])
def test_empty_parts_of_a_folder_are_left_out(tmp_path, packing, content):
    pack = EMPTY[packing]
    for number, raw in enumerate([content, b"label,c\n1,a\n0,b\n", content]):
        (tmp_path / f"part-{number:05d}.csv{packing}").write_bytes(pack(raw))
    columns = [LABEL, ColumnConfig(name="*")]
    config = config_of(tmp_path, "csv", columns, header=True)
    inputs = find_input_splits(config)
    config = with_matched_columns(config, inputs)
    assert [c.name for c in config.columns] == ["label", "c"]
    scanner = Scanner(config)
    blocks = [block for one in inputs for block in read_raw_blocks(one, config)]
    rows = [scanner.scan(block) or scanner.scan_table(block.parse()) for block in blocks]
    assert [label for one in rows for label in one.label] == [1, 0]
    assert scanner.dictionaries["c"].values().to_pylist() == ["a", "b"]
