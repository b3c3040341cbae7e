"""Columns of Parquet and ORC, of paths, and lists that are written as text; both scans agree."""

import datetime as dt
import decimal
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import orc

from ctrdist.errors import DataError
from preprocessing.config.settings import ColumnConfig, SplitConfig
from preprocessing.scan.scanner import Scanner
from preprocessing.scan.task import Plan, scan_mark
from preprocessing.sources.reader import read_blocks, read_raw_blocks
from preprocessing.sources.shards import find_input_splits

LABEL = ColumnConfig(name="label", role="label")
C = ColumnConfig(name="c")
M = ColumnConfig(name="m", role="multi_valued", text="json")
ROWS = 200_000


# ---- columns that nobody asked for ----


@pytest.mark.parametrize("split", ["position", "hash"])
def test_columns_that_nobody_asked_for_never_matter(tmp_path, config_of, split):
    others = {
        "struct": pa.array([{"a": [1, None]}, None]),
        "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
        "decimal": pa.array([decimal.Decimal(10**30), None], pa.decimal128(38, 2)),
        "large": pa.array([["x"], None], pa.large_list(pa.large_string())),
        "bytes": pa.array([b"\xff", None]),
        "time": pa.array([dt.time(1), None]),
        "never": pa.nulls(2),
        "uuid": pa.array([b"\xff" * 16, None], pa.uuid()),
    }
    table = pa.table({"label": [0, 1], "c": ["x", "y"], **others})
    pq.write_table(table, tmp_path / "a.parquet")
    config = config_of(tmp_path / "a.parquet", "parquet", [LABEL, C])
    object.__setattr__(config, "split", SplitConfig(by=split))
    [block] = read_blocks(find_input_splits(config)[0], config)
    assert block.table.column_names == ["label", "c"]
    assert Scanner(config).scan_table(block).label.tolist() == [0, 1]


# ---- ORC ----


def test_each_type_of_orc_is_read(tmp_path, read):
    table = pa.table(
        {
            "label": [True, False, None],
            "c": pa.array([5.0, float("nan"), None]),
            "d": pa.array([dt.date(2024, 1, 1), None, dt.date(1850, 1, 1)]),
            "t": pa.array([1704110400999, -1, 0], pa.timestamp("ms", "UTC")),
            "x": pa.array([decimal.Decimal("1.5"), None, decimal.Decimal("2.0")]),
            "m": [["a", None, ""], None, []],
            "unused": [{"a": 1}] * 3,
        }
    )
    columns = [
        ColumnConfig(name="label", role="label", positive=[True]),
        C,
        ColumnConfig(name="d"),
        ColumnConfig(name="t", role="timestamp"),
        ColumnConfig(name="x", role="numeric"),
        ColumnConfig(name="m", role="multi_valued"),
    ]
    expected = {
        "label": [1, 0, 0], "timestamp": [1704110400, -1, 0], "x": [1.5, None, 2],
        "c": ["5", "", ""], "d": ["2024-01-01", "", "1850-01-01"], "m": [["a"], [], []],
    }  # fmt: skip
    assert read(tmp_path / "a.orc", "orc", table, *columns) == expected
    assert read(tmp_path / "a.parquet", "parquet", table, *columns) == expected


@pytest.fixture(scope="module")
def stripes(tmp_path_factory) -> Path:
    """A file of several stripes."""
    path = tmp_path_factory.mktemp("orc") / "a.orc"
    numbers = np.random.default_rng(1).integers(0, 2**40, ROWS)
    table = pa.table({"label": np.arange(ROWS) % 2, "n": np.arange(ROWS), "c": numbers})
    orc.write_table(table, path, stripe_size=300_000)
    assert orc.ORCFile(path).nstripes > 3
    return path


def test_stripes_are_the_unit_of_splitting(stripes, config_of):
    columns = [LABEL, ColumnConfig(name="n", role="numeric"), C]
    config = config_of(stripes, "orc", columns)
    object.__setattr__(config, "shard_bytes", 1_000_000)
    splits = find_input_splits(config)
    assert len(splits) > 3
    parts = [[b.table.column("n").to_numpy() for b in read_blocks(s, config)] for s in splits]
    assert sum(map(bool, parts)) > 3
    rows = np.concatenate([block for blocks in parts for block in blocks])
    np.testing.assert_array_equal(rows, np.arange(ROWS))
    blocks = [b for s in splits for b in read_raw_blocks(s, config)]
    assert blocks[-1].numbers([blocks[-1].table.num_rows - 1]) == [ROWS]


def test_an_orc_file_that_is_none_is_named(tmp_path, read, config_of):
    table = pa.table({"label": [0, 1], "c": ["x", "y"]})
    message = r"a\.orc: not an ORC file \(.*\)\. Correct `format\.type`, or --input"
    with pytest.raises(DataError, match=message):
        read(tmp_path / "a.orc", "orc", b"0,x\n", C)
    raw = io.BytesIO()
    orc.write_table(table, raw)
    for end in range(0, len(raw.getvalue()), 7):
        (tmp_path / "a.orc").write_bytes(raw.getvalue()[: max(1, end)])
        config = config_of(tmp_path / "a.orc", "orc", [LABEL, C])
        with pytest.raises(DataError, match=r"a\.orc: (not an ORC file|cannot be read) \("):
            list(read_blocks(find_input_splits(config)[0], config))
    with pytest.raises(DataError, match=r"a\.orc: it has no column d; it has label, c\. Correct"):
        read(tmp_path / "a.orc", "orc", table, ColumnConfig(name="d"))


# ---- lists as text ----


def test_lists_that_are_written_as_text(tmp_path, read):
    texts = {
        "[16, 17]": ["16", "17"],
        '["a", "b|c"]': ["a", "b|c"],
        "['a', 'b']": ["a", "b"],
        "[5.0, NaN, null, 1.50, true]": ["5", "1.50", "true"],
        "[None, nan, True, 'x']": ["true", "x"],
        """["it's", 'say "hi"', 'it\\'s']""": ["it's", 'say "hi"', "it's"],
        "[]": [],
        "": [],
        "[16,17]": ["16", "17"],
        "[ 'é' , \"\\u00e9\", '' ,]": ["é", "é"],
    }
    tsv = "".join(f"0\t{text}\n" for text in texts).encode()
    expected = list(texts.values())
    assert read(tmp_path / "a.tsv", "tsv", tsv, M, fast=True)["m"] == expected
    two = ColumnConfig(name="m", role="multi_valued", text="json", max_length=2)
    shorter = [items[:2] for items in expected]
    assert read(tmp_path / "a.tsv", "tsv", tsv, two, fast=True)["m"] == shorter
    quoted = "".join('0,"{}"\n'.format(text.replace('"', '""')) for text in texts).encode()
    assert read(tmp_path / "a.csv", "csv", quoted, M)["m"] == expected
    rows = [{"label": 0, "m": text} for text in texts]
    assert read(tmp_path / "a.jsonl", "jsonl", rows, M)["m"] == expected
    table = pa.table({"label": [0] * len(texts), "m": list(texts)})
    assert read(tmp_path / "a.parquet", "parquet", table, M)["m"] == expected
    lists = [{"label": 0, "m": ["a", 5.0, None]}, {"label": 0, "m": None}]
    assert read(tmp_path / "b.jsonl", "jsonl", lists, M)["m"] == [["a", "5"], []]


@pytest.mark.parametrize(
    "text",
    [
        *("[16 17]", "['a' 'b']", "16, 17", "{'a': 1}", "[[1]]", "['a", "['it's']", "[a]"),
        *("['\\ud800']", '["\\ud800"]', "[" * 10_000, "['\\x4']", "(1, 2)", "[1,,2]", "[x()]"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path, refused, text):
    log = f"0\t[]\n0\t{text}\n".encode()
    message = refused(tmp_path / "a.tsv", "tsv", log, M)
    assert 'a.tsv:2: column m wants a list such as [1, 2] or ["a", "b"], got "' in message
    rows = [{"label": 0, "m": "[]"}, {"label": 0, "m": text}]
    assert "a.jsonl:2: column m wants a list" in refused(tmp_path / "a.jsonl", "jsonl", rows, M)


# ---- partitions ----

DAY = ColumnConfig(name="day", source="partition", role="timestamp", format="%Y-%m-%d")
SITE = ColumnConfig(name="site", source="partition")


def partitioned(folder: Path, kind: str, sites: list[str]) -> None:
    for day, site in enumerate(sites, 1):
        path = folder / f"day=2024-01-{day:02d}" / f"site={site}" / f"part-0.{kind}"
        path.parent.mkdir(parents=True)
        if kind == "csv":
            path.write_bytes(b"1,a\n0,b\n")
        elif kind == "jsonl":
            path.write_bytes(b'{"label": 1, "c": "a"}\n{"label": 0, "c": "b"}\n')
        else:
            write = pq.write_table if kind == "parquet" else orc.write_table
            write(pa.table({"label": [1, 0], "c": ["a", "b"]}), path)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "orc"])
@pytest.mark.parametrize("by", ["position", "hash"])
def test_the_values_of_partitions_are_columns(tmp_path, config_of, kind, by):
    partitioned(tmp_path, kind, ["a%2Fb c", "__HIVE_DEFAULT_PARTITION__", "x=y"])
    config = config_of(tmp_path, kind, [LABEL, DAY, C, SITE])
    object.__setattr__(config, "split", SplitConfig(by=by))
    [split] = find_input_splits(config)
    scanner = Scanner(config)
    days, sites = [], []
    for block in read_raw_blocks(split, config):
        rows = scanner.scan(block) or scanner.scan_table(block.parse())
        days += rows.timestamp.tolist()
        sites += rows.local_ids["site"].tolist()
    assert days == [1704067200 + 86400 * day for day in (0, 0, 1, 1, 2, 2)]
    values = scanner.dictionaries["site"].values().to_pylist()
    assert [values[i] for i in sites] == ["a/b c", "a/b c", "", "", "x=y", "x=y"]


def test_partitions_of_text_are_scanned_fast_and_the_same(tmp_path, read):
    """Of each role, with derived values of their own."""
    folder = tmp_path / "day=1704110400999" / "n=2.5" / "u=x" / "c=__HIVE_DEFAULT_PARTITION__"
    folder.mkdir(parents=True)
    given = {"source": "partition"}
    columns = [
        ColumnConfig(name="label", role="label"),
        ColumnConfig(name="day", role="timestamp", unit="ms", **given),
        ColumnConfig(name="n", role="numeric", numeric_as="both", **given),
        ColumnConfig(name="u", role="user", **given),
        ColumnConfig(name="c", missing="unknown", **given),
        ColumnConfig(name="d"),
    ]
    found = read(folder / "a.csv", "csv", b"1,a\n0,b\n", *columns, fast=True)
    assert found == {
        "label": [1, 0], "timestamp": [1704110400] * 2, "n": [2.5] * 2, "n_bucket": ["0"] * 2,
        "u": ["x"] * 2, "c": [None] * 2, "d": ["a", "b"],
    }  # fmt: skip


def test_a_path_without_the_partition_is_named(tmp_path, config_of):
    partitioned(tmp_path, "csv", ["a"])
    (tmp_path / "day=2024-01-02").mkdir()
    (tmp_path / "day=2024-01-02" / "part-1.csv").write_bytes(b"1,a\n")
    config = config_of(tmp_path, "csv", [LABEL, C, DAY, SITE])
    message = r"day=2024-01-02/part-1\.csv: no folder site=… in its path, from which the column"
    with pytest.raises(DataError, match=message):
        find_input_splits(config)


def test_a_file_that_moves_to_another_partition_is_read_again(tmp_path, config_of):
    marks = set()
    for number, site in enumerate(["a", "b"]):
        partitioned(tmp_path / str(number), "csv", [site])
        config = config_of(tmp_path / str(number), "csv", [LABEL, C, SITE])
        [split] = find_input_splits(config)
        same = split.ranges[0].__class__(**{**vars(split.ranges[0]), "version": "1"})
        split = split.__class__(ranges=(same,))
        marks.add(scan_mark(Plan(config, [], None), 0, split))  # type: ignore[arg-type]
    assert len(marks) == 2
