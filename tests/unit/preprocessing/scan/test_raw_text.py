"""Dialects of text; both scans agree."""

import gzip

import pyarrow as pa
import pytest

from ctrdist.errors import ConfigError
from preprocessing.config.settings import ColumnConfig
from preprocessing.scan.scanner import Scanner
from preprocessing.sources.reader import read_raw_blocks, with_matched_columns
from preprocessing.sources.shards import find_input_splits

LABEL = ColumnConfig(name="label", role="label")
C = ColumnConfig(name="c")


def test_escapes_as_spark_and_databases_write_them(tmp_path, read):
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


def test_an_escape_at_the_end_of_a_line_is_refused(tmp_path, read, refused):
    for end in (b"\\\n", b"\\\r\n", b"\\\\\\\n"):
        message = refused(tmp_path / "a.csv", "csv", b"0,a\n0,b" + end, C, escape="\\")
        assert "a.csv:2: an escape (\\) before the end of the line. Fix the row." in message
    assert read(tmp_path / "a.csv", "csv", b"0,b\\\\\n", C, escape="\\")["c"] == ["b\\"]


def test_logs_with_missing_values_alone_are_scanned_fast(tmp_path, config_of):
    path = tmp_path / "a.tsv"
    path.write_bytes(b"0\ta\t\\N\n1\t\\N\t3\n")
    columns = [LABEL, C, ColumnConfig(name="x", role="numeric")]
    config = config_of(path, "tsv", columns, escape="\\", missing=["\\N"])
    [block] = read_raw_blocks(find_input_splits(config)[0], config)
    assert Scanner(config).scan(block) is not None


def test_blanks_around_values_are_no_part_of_them(tmp_path, read, refused):
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
def test_separators_may_be_written_as_escapes(tmp_path, given, separator, read):
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
def test_layouts_that_cannot_be_read_are_refused(tmp_path, layout, message, read):
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
def test_empty_parts_of_a_folder_are_left_out(tmp_path, packing, content, config_of):
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
