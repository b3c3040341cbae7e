"""JSON lines: what members become, whatever else is in the block, and what is refused where."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctrdist.errors import DataError
from ctrdist.features.typed_columns import read_typed_columns
from preprocessing.config.settings import ColumnConfig, FormatConfig, PreprocessConfig
from preprocessing.sources import jsonl, reader
from preprocessing.sources.jsonl import read_json_lines
from preprocessing.sources.reader import Block, read_blocks
from preprocessing.sources.shards import ByteRange, InputSplit

LAYOUT = FormatConfig(type="jsonl", missing=["", "NA"])
COLUMNS = [
    ColumnConfig(name="label", role="label"),
    ColumnConfig(name="n", role="numeric"),
    ColumnConfig(name="c"),
    ColumnConfig(name="t", role="timestamp"),
    ColumnConfig(name="m", role="multi_valued"),
]
NAMES = [c.name for c in COLUMNS]
CONFIG = PreprocessConfig(columns=COLUMNS, format=LAYOUT)


def typed(block: Block, config: PreprocessConfig) -> None:
    read_typed_columns(block.table, config, block.where)


def log(path: Path, *rows: object) -> InputSplit:
    text = "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows)
    path.write_text(text)
    piece = ByteRange(url=str(path), name=path.name, start=0, end=path.stat().st_size)
    return InputSplit(ranges=(piece,))


def table(path: Path, *rows: object) -> list[dict]:
    return [r for b in read_blocks(log(path, *rows), CONFIG) for r in b.table.to_pylist()]


def test_members_become_what_their_column_is(tmp_path):
    rows = [
        {"label": True, "n": 1, "c": "x", "t": 5, "m": ["a", "b"], "more": {"k": [1]}},
        {"c": 12, "t": "7", "n": "2.5", "label": 0, "m": "a|b"},
        {"label": "1", "n": None, "c": None, "t": 8.0, "m": None},
        {"label": 1.0, "n": "NA", "t": 9.7, "c": "NA", "m": []},
        {"label": False, "n": True, "t": 10, "c": False, "m": ["", 3, None, True]},
        '{"label": 0, "n": -0, "t": 1e1, "c": 1.50, "m": [1.50, -0]}',
        '{"label": 0, "n": NaN, "t": 1, "c": -0, "m": "NA"}',
        {"label": 0, "t": 1, "c": 2**70, "n": 2**70},
    ]
    got = table(tmp_path / "a.jsonl", *rows)
    assert [r["label"] for r in got] == [1, 0, 1, 1, 0, 0, 0, 0]
    numbers = [r["n"] for r in got]
    assert numbers[:6] == [1, 2.5, None, None, 1, 0] and numbers[6] != numbers[6]
    assert numbers[7] == float(2**70)
    assert [r["t"] for r in got] == [5, 7, 8, 9, 10, 10, 1, 1]
    texts = ["x", "12", None, None, "false", "1.50", "0", str(2**70)]
    assert [r["c"] for r in got] == texts
    lists = [["a", "b"], ["a", "b"], None, [], ["", "3", None, "true"], ["1.50", "0"], None, None]
    assert [r["m"] for r in got] == lists
    typed(next(read_blocks(log(tmp_path / "a.jsonl", *rows), CONFIG)), CONFIG)


VALUES = {
    "label": st.sampled_from([0, 1, 0.0, 1.0, True, False, "0", "1"]),
    "n": st.one_of(
        st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.just("NA"),
        st.floats(width=32, allow_infinity=False),
        st.sampled_from(["1", "-2.5", "1e3"]),
    ),
    "c": st.one_of(
        st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(),
        st.text(st.characters(codec="utf-8"), max_size=5), st.just("2024-01-01 00:00:00"),
    ),
    "t": st.one_of(st.integers(0, 2**50), st.integers(0, 2**50).map(str), st.just(1.7e9)),
    "m": st.one_of(
        st.none(), st.text("ab|", max_size=5), st.integers(0, 9),
        st.lists(st.one_of(st.none(), st.text("ab|", max_size=2), st.integers(), st.booleans())),
    ),
}  # fmt: skip
ONE_TYPE = {
    "label": st.sampled_from([[0, 1], [True, False], ["0", "1"], [0.0, 1.0]]),
    "n": st.sampled_from([[1, -7, None], [1.5, -0.0], ["1", "2.5", "NA"], [True, None], [2**63]]),
    "c": st.sampled_from([["é", "x", None], [1, -0, 2**62], [True, False], ["2024-01-01"], [1.5]]),
    "t": st.sampled_from([[1, 2**40], ["1", "22"], [1.7e9, 3.0]]),
    "m": st.sampled_from([["a|b", None, ""], [["a"], [], None], [[1, 2], [3]], [7, 8], [[True]]]),
}


@st.composite
def blocks(draw: st.DrawFn) -> list[dict]:
    """Rows whose values are of any types, or each column's of one, so that Arrow can read them."""
    if draw(st.booleans()):
        needed = {name: VALUES[name] for name in ("label", "t")}
        row = st.fixed_dictionaries(needed, optional={n: VALUES[n] for n in ("n", "c", "m")})
        return draw(st.lists(row, min_size=1, max_size=6))
    pools = {name: draw(pool) for name, pool in ONE_TYPE.items()}
    row = st.fixed_dictionaries({n: st.sampled_from(p) for n, p in pools.items()})
    return draw(st.lists(row, min_size=1, max_size=30))


@given(blocks())
@settings(max_examples=100, deadline=None)
def test_arrow_and_python_read_the_same(rows):
    raw = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    slow, kept, faults = read_json_lines(
        raw.split(b"\n")[:-1], LAYOUT, {c.name: c for c in COLUMNS}
    )
    fast = jsonl._fast(raw, LAYOUT, {c.name: c for c in COLUMNS})
    assert not faults and kept.tolist() == list(range(len(rows)))
    assert slow.schema.types == [pa.float64(), pa.float64(), pa.string(), pa.int64(), LIST]
    if fast is not None:
        assert fast.schema.types == slow.schema.types
        text = [i for i, name in enumerate(NAMES) if name != "c"]
        assert repr(fast.select(text).to_pylist()).replace("-0.0", "0.0") == repr(
            slow.select(text).to_pylist()
        ).replace("-0.0", "0.0")
        missing = dict.fromkeys(LAYOUT.missing)
        shown = [[missing.get(v, v) for v in t.column("c").to_pylist()] for t in (fast, slow)]
        assert shown[0] == shown[1]


LIST = pa.list_(pa.string())


def test_usual_logs_are_read_by_arrow(monkeypatch, tmp_path):
    monkeypatch.setattr(jsonl, "read_json_lines", None)
    rows = [
        {"label": i % 2, "n": i / 3 if i % 5 else None, "c": f"v{i}", "t": i, "m": ["a"] * (i % 3)}
        for i in range(500)
    ]
    got = table(tmp_path / "a.jsonl", *rows)
    assert [r["c"] for r in got] == [f"v{i}" for i in range(500)]
    assert [r["m"] for r in got] == [["a"] * (i % 3) for i in range(500)]


GOOD = {"label": 0, "n": 1, "c": "x", "t": 1, "m": []}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"label": 0', r"not JSON \(.*at character 12\)\. Write each row as one JSON object"),
        ("[1]", "no JSON object. Write each row as one JSON object, with the columns' names"),
        ('{"label": 0}{"label": 1}', "not JSON"),
        ({**GOOD, "c": {"a": 1}}, "column c wants one value, got an object"),
        ({**GOOD, "c": ["a"]}, "column c wants one value, got a list"),
        ({**GOOD, "m": [["a"]]}, "column m wants a list of texts, got nested values"),
        ({**GOOD, "n": "1.5e"}, 'column n wants a finite number, got "1.5e". Fix the row, or'),
        ({**GOOD, "t": "1.5x"}, r'column t wants a number \(seconds\), got "1\.5x"'),
        ({**GOOD, "t": 2**63}, "column t wants a number"),
        ({**GOOD, "label": "yes"}, 'column label wants 0 or 1, got "yes"'),
        ('{"c": "\\ud800", "label": 0, "t": 1}', "half of a surrogate pair in a text"),
        ('{"c": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ('{"c": "a\0b"}', "not JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path, monkeypatch, row, message):
    rows = [GOOD, "", GOOD, row, GOOD]
    for block_bytes in (60, 2**20):
        monkeypatch.setattr(reader, "BLOCK_BYTES", block_bytes)
        with pytest.raises(DataError, match=rf"^a\.jsonl:4: {message}"):
            table(tmp_path / "a.jsonl", *rows)


def test_an_object_over_two_lines_is_no_row_though_the_number_of_rows_is_right(tmp_path):
    with pytest.raises(DataError, match=r"a\.jsonl:1: not JSON"):
        table(tmp_path / "a.jsonl", '{"label":0,"t":1}{"label":1,"t":1}', '{"label":0,', '"t":1}')


def test_line_ends_blank_lines_and_marks_of_other_systems(tmp_path):
    path = tmp_path / "a.jsonl"
    text = "\ufeff" + "\r\n".join([json.dumps(GOOD), "", json.dumps(GOOD)])
    path.write_bytes(text.encode())
    whole = ByteRange(url=str(path), name="a", start=0, end=path.stat().st_size)
    shard = InputSplit(ranges=(whole,))
    assert sum(block.table.num_rows for block in read_blocks(shard, CONFIG)) == 2
