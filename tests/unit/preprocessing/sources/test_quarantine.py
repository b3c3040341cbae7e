"""Bad rows are taken out, with place and reason, and good ones stay whatever is beside them."""

import json
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ctrdist.errors import DataError
from ctrdist.features.typed_columns import read_typed_columns
from preprocessing.config.settings import ColumnConfig, FormatConfig, PreprocessConfig
from preprocessing.sources.delimited import DelimitedBlock
from preprocessing.sources.jsonl import JsonBlock
from preprocessing.sources.quarantine import BadRow, clean
from preprocessing.sources.raw_block import Block, TableConfig
from preprocessing.sources.reader import RawBlock, read_raw_blocks
from preprocessing.sources.shards import ByteRange, InputSplit

COLUMNS = [
    ColumnConfig(name="label", role="label"),
    ColumnConfig(name="n", role="numeric", type="integer"),
    ColumnConfig(name="x", role="numeric"),
    ColumnConfig(name="c"),
    ColumnConfig(name="t", role="timestamp"),
]
NAMES = [c.name for c in COLUMNS]


def typed(block: Block, config: PreprocessConfig) -> None:
    read_typed_columns(block.table, config, block.where)


def config(kind: str = "tsv", **layout: object) -> PreprocessConfig:
    return PreprocessConfig(columns=COLUMNS, format=FormatConfig(type=kind, **layout))  # type: ignore[arg-type]


def block_of(raw: bytes, settings: PreprocessConfig) -> RawBlock:
    piece = ByteRange(url="memory", name="log", start=0, end=len(raw))
    table = TableConfig(settings.format, settings.columns, NAMES)
    jsonl = settings.format.type == "jsonl"
    text = piece, raw, 0, len(raw)
    return JsonBlock(*text, table) if jsonl else DelimitedBlock(*text, table, NAMES)


def cleaned(raw: bytes, settings: PreprocessConfig) -> tuple[list[dict], list[BadRow]]:
    block, bad = clean(block_of(raw, settings), settings)
    typed(block, settings)  # refuses nothing that is left
    return block.table.to_pylist(), bad


def test_each_kind_of_fault_is_named_and_the_rest_stays():
    lines = [
        b"1\t5\t1.5\ta\t10",
        b"0\t5\t1.5\ta",
        b"",
        b"2\t5\t1.5\ta\t10",
        b"0\t5.5\t1.5\ta\t10",
        b"0\t9223372036854775808\t1.5\ta\t10",
        b"0\t5\tinf\ta\t10",
        b"0\t5\t1.5\t\xff\t10",
        b"0\t5\t1.5\ta\t",
        b"0\t5\t1.5\ta\rb\t10",
        b"\t5\t1.5\ta\t10",
        b"0\t\t\t\t11",
    ]
    rows, bad = cleaned(b"\n".join(lines) + b"\n", config())
    assert [row["t"] for row in rows] == ["10", "11"]
    assert [(b.line, b.column, b.reason) for b in bad] == [
        (2, None, "4 columns, expected 5 (label, n, …, t), separated by tab"),
        (4, "label", 'column label wants 0 or 1, got "2"'),
        (5, "n", 'column n wants an integer, got "5.5"'),
        (6, "n", 'column n wants an integer, got "9223372036854775808"'),
        (7, "x", 'column x wants a finite number, got "inf"'),
        (8, None, "not utf-8 (invalid start byte)"),
        (9, "t", "column t wants a number (seconds), got nothing"),
        (10, None, "a carriage return within the line"),
        (11, "label", "column label wants 0 or 1, got nothing"),
    ]
    assert bad[0].text == "0\t5\t1.5\ta" and bad[5].text == "0\t5\t1.5\t\\xff\t10"
    assert json.loads(bad[4].to_json()) == {
        "file": "log", "line": 7, "column": "x", "text": "0\t5\tinf\ta\t10",
        "reason": 'column x wants a finite number, got "inf"',
    }  # fmt: skip


PIECES = st.sampled_from(
    [
        b"0",
        b"1",
        b"2.5",
        b"x",
        b"",
        b",",
        b",",
        b",",
        b",",
        b'"',
        b'""',
        b"\r",
        b"\xff",
        b"\0",
        b"nan",
        b"\\",
        b" ",
        b"\\N",
    ]
)
LAYOUTS = st.fixed_dictionaries(
    {}, optional={"quote": st.just(""), "escape": st.just("\\"), "skip_blank": st.just(True)}
)
LINES = st.one_of(
    st.lists(PIECES, max_size=12).map(b"".join),
    st.tuples(
        st.sampled_from([b"0", b"1", b'"1"', b"2", b""]),
        st.sampled_from([b"1", b"-2", b"", b"1.0", b"9" * 30]),
        st.sampled_from([b"1", b"-2e3", b"", b"1e400", b"nan", b"Infinity", b'"2"']),
        st.sampled_from([b"a", b'"a,b"', b'"a""b"', b'a"b', b"\xc3\xa9", b'"a', b"\0"]),
        st.sampled_from([b"7", b"8", b"", b"7.5"]),
    ).map(b",".join),
)


@given(st.lists(LINES, max_size=8), st.sampled_from([b"\n", b"\r\n"]), LAYOUTS)
@example([b'1,2,3,a,"7', b"1,2,3,a,7"], b"\n", {})
@example([b'1,2,3,"a', b'b",7', b"1,2,3,a\r,7"], b"\n", {})
@settings(max_examples=60, deadline=None)
def test_a_row_is_good_or_bad_on_its_own(lines, ending, layout):
    settings = config("csv", **layout)
    raw = b"".join(line + ending for line in lines)
    rows, bad = cleaned(raw, settings)
    alone = [cleaned(line + ending, settings) for line in lines]
    assert repr(rows) == repr([row for good, _ in alone for row in good])
    assert [b.reason for b in bad] == [b.reason for _, faults in alone for b in faults]
    refused = [index for index, (_, faults) in enumerate(alone, 1) if faults]
    assert [b.line for b in bad] == refused
    try:  # the usual way accepts the block where nothing is bad, and only there
        block = block_of(raw, settings).parse()
        typed(block, settings)
    except DataError:
        assert bad
    else:
        assert not bad and repr(block.table.to_pylist()) == repr(rows)


def test_other_encodings_and_long_separators():
    settings = config("csv", separator="::", encoding="latin-1", quote="")
    rows, bad = cleaned(b"1::2::3::\xe9::5\n1::2::3::\x1f::5\n1::2\n", settings)
    assert [row["c"] for row in rows] == ["é"]
    assert [b.line for b in bad] == [2, 3] and "0x1F" in bad[0].reason
    settings = config("csv", encoding="shift_jis")
    rows, bad = cleaned("1,2,3,ソ,5\n".encode("shift_jis") + b"1,2,3,\x81,5\n", settings)
    assert [row["c"] for row in rows] == ["ソ"] and [b.line for b in bad] == [2]


def test_json_lines():
    good = {"label": 1, "n": 1.0, "x": 2, "c": "a", "t": 3}
    lines = [good, {**good, "n": 1.5}, {**good, "label": 3}, {**good, "c": {}}, good]
    raw = "".join(json.dumps(line) + "\n" for line in lines).encode() + b"{\n"
    rows, bad = cleaned(raw, config("jsonl"))
    assert len(rows) == 2
    assert [(b.line, b.column) for b in bad] == [(2, "n"), (3, "label"), (4, "c"), (6, None)]


def test_parquet_names_the_row(tmp_path):
    path = tmp_path / "a.parquet"
    columns = {"n": [1, 2, 3], "x": [1.0, float("inf"), 2.0], "c": ["a", "b", "c"], "t": [1, 2, 3]}
    table = pa.table({"label": pa.array([1, 0, 7], pa.int8()), **columns})
    pq.write_table(table, path)
    piece = ByteRange(url=str(path), name="a.parquet", start=0, end=path.stat().st_size)
    settings = config("parquet")
    block = next(read_raw_blocks(InputSplit(ranges=(piece,)), settings))
    good, bad = clean(block, settings)
    assert good.table.to_pylist() == table.slice(0, 1).to_pylist()
    assert good.where(0) == "a.parquet: row 1"
    assert [(b.line, b.column) for b in bad] == [(2, "x"), (3, "label")]
    assert json.loads(bad[1].text)["c"] == "c"


def test_of_a_huge_line_only_the_beginning_is_kept():
    _, bad = cleaned(b"0\t1\t" + "é".encode() * 5_000_000 + b"\n", config())
    assert len(bad[0].text) == 10_000 and len(bad[0].reason) < 200


def test_numbers_of_lines_in_a_later_part_of_a_file(tmp_path: Path):
    lines = [f"1\t{i}\t1\ta\t{i}" if i % 10 else f"bad {i}" for i in range(1, 500)]
    path = tmp_path / "log.tsv"
    path.write_text("\n".join(lines) + "\n")
    size = path.stat().st_size
    file = {"url": str(path), "name": "log"}
    pieces = [ByteRange(**file, start=s, end=s + 500) for s in range(0, size, 500)]
    settings = config()
    found = [
        clean(block, settings)
        for block in read_raw_blocks(InputSplit(ranges=tuple(pieces)), settings)
    ]
    assert [b.line for _, bad in found for b in bad] == list(range(10, 500, 10))
    assert [b.text for _, bad in found for b in bad] == [f"bad {i}" for i in range(10, 500, 10)]
    places = [block.where(i) for block, _ in found for i in range(block.table.num_rows)]
    assert places == [f"log:{i}" for i in range(1, 500) if i % 10]


def test_many_bad_rows_do_not_make_a_block_slow():
    rows = [f"{i % 2}\t{i}\t{i}.5\tv{i % 77}\t{i}" for i in range(100_000)]
    good = "\n".join(rows).encode() + b"\n"
    for i in range(0, 100_000, 50):
        rows[i] = [f"x{i}\t1\t1\ta\t1", "1\t2", f"1\t{i}.5\t1\ta\t1", f"1\t1\t1\ta\t{i}x"][
            i // 50 % 4
        ]
    raw = "\n".join(rows).encode() + b"\n"
    settings = config()
    start = time.process_time()
    typed(block_of(good, settings).parse(), settings)
    usual = time.process_time() - start
    kept, bad = clean(block_of(raw, settings), settings)
    took = time.process_time() - start - usual
    assert (kept.table.num_rows, len(bad)) == (98_000, 2000)
    assert took < 15 * usual + 1
