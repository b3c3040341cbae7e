"""What the values of a raw log become: ids, numbers and labels; both scans agree."""

import datetime as dt
import decimal

import pyarrow as pa
import pytest
import yaml

from ctrdist.errors import DataError
from preprocessing.config.settings import ColumnConfig

LABEL = ColumnConfig(name="label", role="label")

# ---- ids ----


def test_ids_that_became_floats_keep_their_texts(tmp_path, read):
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
    assert read(tmp_path / "a.orc", "orc", table, *columns) == found
    rows = [
        '{"label": 0, "c": %s, "u": %s, "m": [%s, 5.0]}' % (x, x, x)  # noqa: UP031
        for x in ["5.0", "NaN", "-0.0", "null", "1.5", f"{2.0**53}", "1e16", "Infinity"]
    ]
    assert read(tmp_path / "a.jsonl", "jsonl", rows, *columns) == found


def test_a_text_is_its_category_as_it_stands(tmp_path, read):
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
def test_each_type_of_parquet_has_its_text(tmp_path, array, texts, read):
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
def test_each_type_of_parquet_has_its_number(tmp_path, array, numbers, read):
    table = pa.table({"label": [0] * len(array), "x": array})
    column = ColumnConfig(name="x", role="numeric")
    assert read(tmp_path / "a.parquet", "parquet", table, column)["x"] == numbers


def test_types_without_a_value_are_refused_with_their_row(tmp_path, refused):
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
def test_texts_for_missing_numbers_are_named(tmp_path, text, kind, read, refused):
    log = f"0,1\n0,{text}\n".encode()
    column = ColumnConfig(name="x", role="numeric", type=kind)
    message = refused(tmp_path / "a.csv", "csv", log, column)
    assert message.endswith("add it to format.missing, or to missing_texts of the column, in the "
                            "data-set YAML.")  # fmt: skip
    own = ColumnConfig(name="x", role="numeric", type=kind, missing_texts=[text])
    assert read(tmp_path / "a.csv", "csv", log, own)["x"] == [1, None]
    assert read(tmp_path / "a.csv", "csv", log, column, missing=["", text])["x"] == [1, None]


def test_nan_is_a_missing_number(tmp_path, read, refused):
    x = ColumnConfig(name="x", role="numeric")
    assert read(tmp_path / "a.csv", "csv", b"0,nan\n0,NaN\n0,2\n", x)["x"] == [None, None, 2]
    whole = ColumnConfig(name="x", role="numeric", type="integer")
    assert "add it to format.missing" in refused(tmp_path / "a.csv", "csv", b"0,nan\n", whole)


def test_missing_texts_belong_to_one_column(tmp_path, read):
    columns = [ColumnConfig(name="a", missing_texts=["-1", "?"]), ColumnConfig(name="b")]
    assert read(tmp_path / "a.csv", "csv", b"0,-1,-1\n0,?,?\n0,,\n", *columns) == {
        "label": [0, 0, 0], "a": ["", "", ""], "b": ["-1", "?", ""],
    }  # fmt: skip
    rows = [{"label": 0, "a": "?", "b": "?"}, {"label": 0, "a": "x", "b": None}]
    found = read(tmp_path / "a.jsonl", "jsonl", rows, *columns)
    assert found["a"] == ["", "x"] and found["b"] == ["?", ""]


@pytest.mark.parametrize("text", ["1e308", "-1e39", "inf", "1e999"])
def test_numbers_that_float32_lacks_are_refused(tmp_path, text, refused):
    column = ColumnConfig(name="x", role="numeric")
    message = refused(tmp_path / "a.csv", "csv", f"0,1\n0,{text}\n".encode(), column)
    assert f'a.csv:2: column x wants a finite number, got "{text}". Fix the row: ' in message
    table = pa.table({"label": [0, 0], "x": [1.0, float(text)]})
    assert "row 2" in refused(tmp_path / "a.parquet", "parquet", table, column)


@pytest.mark.parametrize("kind", ["number", "integer"])
def test_true_and_false_are_numbers(tmp_path, kind, read):
    column = ColumnConfig(name="x", role="numeric", type=kind)
    found = read(tmp_path / "a.csv", "csv", b"0,true\n0,False\n0,TRUE\n0,3\n", column)
    assert found["x"] == [1, 0, 1, 3]
    rows = [{"label": 0, "x": "True"}, {"label": 0, "x": False}]
    assert read(tmp_path / "a.jsonl", "jsonl", rows, column)["x"] == [1, 0]


# ---- labels ----

POSITIVE = ColumnConfig(name="label", role="label", positive=["click", "true", 1])
C = ColumnConfig(name="c")


def test_positive_values_make_the_label(tmp_path, read):
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


def test_what_yaml_reads_as_true_is_the_word_of_the_log(tmp_path, read):
    label = ColumnConfig(name="label", role="label", positive=yaml.safe_load("[yes, Sold]"))
    log = b"yes,x\nNo,x\nYES,x\nTrue,x\nSold,x\non,x\n"
    assert read(tmp_path / "a.csv", "csv", log, label, C)["label"] == [1, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_true_and_false_are_labels(tmp_path, kind, read):
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
def test_the_advice_for_a_label_helps(tmp_path, text, advice, read, refused):
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
