"""The fast scan gives what the slow one gives, or nothing."""

from dataclasses import fields, replace
from random import Random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctrdist.errors import DataError
from ctrdist.features.encode import LocalRows
from ctrdist.features.hashing import hash_values
from preprocessing.config.settings import (
    ColumnConfig,
    FormatConfig,
    JoinConfig,
    PreprocessConfig,
    SplitConfig,
)
from preprocessing.scan.scanner import Scanner
from preprocessing.sources.delimited import DelimitedBlock
from preprocessing.sources.raw_block import Block, TableConfig
from preprocessing.sources.shards import ByteRange
from preprocessing.sources.side_tables import SideTable
from preprocessing.sources.text_blocks import TextBlock
from preprocessing.split.assign import row_hash

LABEL = ColumnConfig(name="label", role="label")
ALL = [
    LABEL,
    ColumnConfig(name="whole", role="numeric", type="integer", numeric_as="both"),
    ColumnConfig(name="number", role="numeric"),
    ColumnConfig(name="binned", role="numeric", numeric_as="bucket", buckets="quantile"),
    ColumnConfig(name="squared", role="numeric", numeric_as="bucket"),
    ColumnConfig(name="token"),
    ColumnConfig(name="unknown", missing="unknown"),
    ColumnConfig(name="over", role="ignore"),
    ColumnConfig(name="tags", role="multi_valued", max_length=3),
    ColumnConfig(name="member", role="user"),
    ColumnConfig(name="time", role="timestamp", unit="ms"),
    ColumnConfig(name="counts", role="weight"),
    ColumnConfig(name="bought", role="label"),
]
"""A column of each kind."""
TEXTS = ["", "NA", "a", "b", "0", "é", "eight by", "eight byt", "longer than sixteen", "\\N"]
INTEGERS = ["0", "1", "-7", "007", "12345678", "123456789", "-123456789012345678", "99", "-0"]
DATES = ["2024-01-31", "1969-12-31T23:59:59.5", "2024-01-31 10:00:00+02:00"]
NUMBERS = [*INTEGERS[:4], "-0", "0.1", "-2.50", "1e3", "1.5E-7", "123456789.012345", "1e22", "0e+5"]
ODD = [
    *("+1", "1.", ".5", "1e23", "1234567890123456789", "0.30000000000000000004", "inf", "nan"),
    *(" 1", "1 ", "--1", "-", "1_0", "0x1", "2", "1e", "1.5", "a|b", "\ufeff", "\0", "a\rb"),
    *("a\nb", "\n", '"', '"a"', "\t", ",", "\udcff", "\udce9"),
]
"""What the fast scan may leave to the slow one, anywhere."""


def value(column: ColumnConfig, config: PreprocessConfig, random: Random) -> str:
    """A value as it should be."""
    if column.role == "label":
        if column.positive:
            return random.choice([*TEXTS, *NUMBERS, "FALSE"])
        return random.choice(["0", "1", "True", "false"] if column.threshold is None else NUMBERS)
    if column.role == "timestamp":
        return random.choice(INTEGERS if column.format is None else DATES)
    if column.role == "weight":
        return random.choice(["0", "1", "0.25", "1e3"])
    if column.role == "numeric":
        known = INTEGERS if column.type == "integer" else NUMBERS
        return random.choice([*config.format.missing, *known])
    if column.role == "multi_valued":
        return "|".join(random.choices(TEXTS, k=random.randrange(6)))
    made = "".join(random.choices("abcé ", k=random.randrange(9)))
    return random.choice([*TEXTS, made])


@st.composite
def logs(draw: st.DrawFn, odd: bool) -> tuple[PreprocessConfig, list[bytes]]:
    """A data set and blocks of it, with odd values or without any."""
    random = Random(draw(st.integers(0, 2**32)))  # a draw of hypothesis for each value takes long
    label = random.choice(
        [LABEL, replace(LABEL, threshold=0.5), replace(LABEL, positive=["0", 7, "false"])]
    )
    columns = [label, ALL[5], *random.sample(ALL[6:] + ALL[1:5], random.randrange(10))]
    random.shuffle(columns)
    if random.random() < 0.5:
        columns = [replace(c, format="iso8601") if c.role == "timestamp" else c for c in columns]
    needed = ("label", "timestamp", "weight")
    columns = [
        c if c.role in needed else replace(c, missing_texts=random.choice([[], ["b", "0"]]))
        for c in columns
    ]
    layout = FormatConfig(
        type=random.choice(["tsv", "csv"]),
        missing=random.choice([[""], ["", "NA"], ["NA"]]),
        skip_blank=random.choice([False, True]),
        escape=random.choice(["", "\\"]) if odd else "",
    )
    key = random.sample([c.name for c in columns], random.randint(0, min(3, len(columns))))
    split = random.choice([SplitConfig(), SplitConfig(by="hash", key=key)])
    config = PreprocessConfig(columns=columns, format=layout, split=split)
    separator = "\t" if layout.type == "tsv" else ","
    blocks = []
    for _ in range(draw(st.integers(1, 3))):
        rows = [[value(c, config, random) for c in columns] for _ in range(random.randint(1, 12))]
        for _ in range(random.randrange(3) if odd else 0):
            random.choice(rows)[random.randrange(len(columns))] = random.choice(ODD)
        if layout.skip_blank:
            rows = [
                [random.choice(["", " "]) + v + random.choice(["", "  "]) for v in row]
                for row in rows
            ]
        end = random.choice(["\n", "\r\n"])
        text = "".join(separator.join(row) + end for row in rows)
        blocks.append(text.encode(errors="surrogateescape"))
    return config, blocks


def text_block(raw: bytes) -> TextBlock:
    piece = ByteRange(url="", name="log", start=0, end=0)
    return TextBlock(byte_range=piece, raw=raw, skipped=0, consumed=0)


def fast_scan(scanner: Scanner, block: TextBlock) -> LocalRows | None:
    return scanner.scan(raw_block(block, scanner.config))


def raw_block(
    text: TextBlock, config: PreprocessConfig, names: list[str] | None = None
) -> DelimitedBlock:
    known = [c.name for c in config.columns]
    names = known if names is None else names
    table = TableConfig(config.format, config.columns, known)
    return DelimitedBlock(text.byte_range, text.raw, 0, 0, table, names)


def slow_block(block: TextBlock, config: PreprocessConfig) -> Block:
    return raw_block(block, config).parse()


def plain(scanned: LocalRows) -> dict[str, object]:
    """All in it as bytes: the sign of a zero counts too."""

    def of(value: object) -> object:
        if isinstance(value, np.ndarray):
            return str(value.dtype), value.tobytes()
        if isinstance(value, dict):
            return {name: of(v) for name, v in value.items()}
        return [of(v) for v in value] if isinstance(value, tuple) else value

    return {f.name: of(getattr(scanned, f.name)) for f in fields(scanned)}


def contents(of: Scanner) -> dict[str, list[str]]:
    return {name: words.values().to_pylist() for name, words in of.dictionaries.items()}


def check_plain(log: tuple[PreprocessConfig, list[bytes]]) -> None:
    config, blocks = log
    fast, slow = Scanner(config), Scanner(config)
    for raw in map(text_block, blocks):
        scanned = fast_scan(fast, raw)
        assert scanned is not None
        assert plain(scanned) == plain(slow.scan_table(slow_block(raw, config)))
    assert contents(fast) == contents(slow)


def check_odd(log: tuple[PreprocessConfig, list[bytes]]) -> None:
    config, blocks = log
    fast, slow = Scanner(config), Scanner(config)
    for raw in map(text_block, blocks):
        before, scanned = contents(fast), fast_scan(fast, raw)
        try:
            expected = slow.scan_table(slow_block(raw, config))
        except DataError:
            assert scanned is None
            assert contents(fast) == before
            return
        if scanned is None:
            assert contents(fast) == before
            scanned = fast.scan_table(slow_block(raw, config))
        assert plain(scanned) == plain(expected)
    assert contents(fast) == contents(slow)


@settings(max_examples=60, deadline=None)
@given(logs(odd=False))
def test_all_that_is_plain_is_scanned_fast_and_the_same(log):
    check_plain(log)


@settings(max_examples=150, deadline=None)
@given(logs(odd=True))
def test_what_is_odd_is_the_same_or_left_to_the_slow_scan(log):
    check_odd(log)


@pytest.mark.slow
@settings(max_examples=3_000, deadline=None)
@given(logs(odd=False), logs(odd=True))
def test_fast_and_slow_scan_agree_on_many_logs(plain_log, odd_log):
    check_plain(plain_log)
    check_odd(odd_log)


@pytest.mark.parametrize("kind", ["integer", "number"])
def test_each_number_is_rounded_as_arrow_does(kind, rng):
    def digits(most: int) -> str:
        return "".join(map(str, rng.integers(0, 10, rng.integers(0, most + 1))))

    texts = [
        "9007199254740993",
        "0.000000000000000000000001",
        "-0.0",
        "1e-22",
        "123456789012345e22",
    ]
    for _ in range(3000):
        fraction = rng.choice(["", ".", "." + digits(12)])
        power = rng.choice(["", "", "e", "e-", "E+"])
        texts.append(
            rng.choice(["", "-"]) + digits(18) + fraction + power + digits(2) * (power > "")
        )
    config = PreprocessConfig(columns=[LABEL, ColumnConfig(name="x", role="numeric", type=kind)])
    scanner = Scanner(config)
    lines = [f"1\t{text}\n".encode() for text in texts]
    scanned = [(line, fast_scan(scanner, text_block(line))) for line in lines]
    taken = [(line, s.numbers["x"].item()) for line, s in scanned if s is not None]
    assert len(taken) > 300
    raw = text_block(b"".join(line for line, _ in taken))
    expected = scanner.scan_table(slow_block(raw, config)).numbers["x"]
    assert np.array([x for _, x in taken]).tobytes() == expected.tobytes()


def test_many_rows_and_long_lists_go_over_all_seams(rng):
    """Batches of 256 rows, 64 bytes at a time; dictionaries that grow; rows longer than either."""
    rows = [
        "\t".join(
            [
                str(i % 2),
                "|".join(map(str, rng.integers(0, 3000, rng.integers(0, 40)))),
                str(rng.integers(0, 10**9)),
                "x" * int(rng.integers(0, 300) ** 2 // 200),
            ]
        )
        for i in range(5000)
    ]
    columns = [LABEL, ColumnConfig(name="tags", role="multi_valued"), ColumnConfig(name="id")]
    config = PreprocessConfig(columns=[*columns, ColumnConfig(name="text")])
    fast, slow = Scanner(config), Scanner(config)
    for size in (1, 255, 256, 257, 4231):
        raw = text_block("".join(f"{row}\n" for row in rows[:size]).encode())
        rows = rows[size:]
        scanned = fast_scan(fast, raw)
        assert scanned is not None
        assert plain(scanned) == plain(slow.scan_table(slow_block(raw, config)))
    assert contents(fast) == contents(slow)


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 256, 257, 320, 1000])
def test_a_file_of_one_column_is_read_to_its_end(rows):
    config = PreprocessConfig(columns=[LABEL, ColumnConfig(name="c")])
    config = replace(config, split=SplitConfig(by="hash"))
    narrow = Scanner(config)
    raw = "".join(f"{i % 10}\n" for i in range(rows)).encode()
    scanned = narrow.scan(raw_block(text_block(raw), narrow.config, ["c"]))
    assert scanned is not None
    assert scanned.local_ids["c"].tolist() == [i % 10 for i in range(rows)]
    assert (
        narrow.scan(raw_block(text_block(raw + b"\n"), narrow.config, ["c"])) is None
    )  # a blank line


def test_columns_that_are_not_named_are_passed_over():
    config = PreprocessConfig(columns=[LABEL, ColumnConfig(name="c")])
    names = ["other", "c", "label", "last"]
    scanned = Scanner(config).scan(raw_block(text_block(b"x\ty\t1\t\n"), config, names))
    assert scanned is not None
    assert (scanned.label.tolist(), scanned.local_ids["c"].tolist()) == ([1], [0])
    assert set(scanned.local_ids) == {"c"}


@pytest.mark.parametrize(
    ("key", "hashed"), [([], ["u"]), (["u", "label"], ["u", "label"]), (["c"], ["c"])]
)
def test_hashes_of_users_and_rows_are_those_of_their_values(key, hashed):
    columns = [LABEL, ColumnConfig(name="u", role="user"), ColumnConfig(name="c", role="ignore")]
    split = SplitConfig(by="hash", fractions=[0.4, 0.3, 0.3], seed=7, key=key)
    config = PreprocessConfig(columns=columns, split=split)
    users = ["", *("ab" * i + "é" for i in range(40))]
    raw = text_block("".join(f"{i % 2}\t{u}\t{i}\n" for i, u in enumerate(users)).encode())
    scanned = fast_scan(Scanner(config), raw)
    assert scanned is not None
    np.testing.assert_array_equal(scanned.user, hash_values(pa.array(users)).view(np.int64))
    table = slow_block(raw, config).table.select(hashed)
    np.testing.assert_array_equal(scanned.row_hash, row_hash(table, split.seed))


def test_milliseconds_become_seconds_towards_the_past():
    config = PreprocessConfig(columns=[LABEL, ALL[-3], ColumnConfig(name="c")])
    raw = text_block(b"1\t1999\ta\n1\t-1\ta\n")
    for scanned in (
        fast_scan(Scanner(config), raw),
        Scanner(config).scan_table(slow_block(raw, config)),
    ):
        assert scanned is not None
        assert scanned.timestamp.tolist() == [1, -1]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"1\t1\n1\tx\n", 'log:2: column I1 wants an integer, got "x"'),
        (b"1\t1\n1\n", "log:2: 1 columns, expected 2"),
        (b"1\t1\n2\t1\n", 'log:2: column label wants 0 or 1, got "2"'),
        (b"1\t1\n1\t\xff\n", "log:2: not utf-8"),
    ],
)
def test_what_is_wrong_is_told_by_the_slow_scan(raw, message):
    config = PreprocessConfig(
        columns=[LABEL, ColumnConfig(name="I1", role="numeric", type="integer")]
    )
    scanner = Scanner(config)
    assert fast_scan(scanner, text_block(raw)) is None
    with pytest.raises(DataError, match=message):
        scanner.scan_table(slow_block(text_block(raw), config))


@pytest.mark.parametrize(
    "layout",
    [
        {"separator": "::"},
        {"separator": "\u00a6"},
        {"encoding": "latin-1"},
        {"type": "parquet"},
    ],
)
def test_layouts_that_it_does_not_know_are_left_to_the_slow_scan(layout):
    config = PreprocessConfig(
        columns=[LABEL, ColumnConfig(name="c")], format=FormatConfig(**layout)
    )
    assert fast_scan(Scanner(config), text_block(b"1\ta\n")) is None


def test_joined_columns_are_scanned_from_the_table_and_are_no_part_of_the_row_hash():
    join = {"file": "users.csv", "key": "u", "columns": [ColumnConfig(name="u", role="ignore"),
            ColumnConfig(name="age")]}  # fmt: skip
    columns = [LABEL, ColumnConfig(name="u")]
    config = PreprocessConfig(
        columns=columns, joins=[JoinConfig(**join)], split=SplitConfig(by="hash")
    )
    side = SideTable("u", pa.array(["a", "b"]), pa.table({"age": pa.array(["30", None])}))
    scanner = Scanner(config, [side])
    raw = text_block(b"1\ta\n0\tb\n0\tc\n")
    assert fast_scan(scanner, raw) is None
    scanned = scanner.scan_table(slow_block(raw, config))
    assert scanned.local_ids["age"].tolist() == [0, 1, 1]
    assert scanner.dictionaries["age"].values().to_pylist() == ["30", ""]
    alone = fast_scan(Scanner(replace(config, joins=[])), raw)
    np.testing.assert_array_equal(scanned.row_hash, alone.row_hash)


def test_without_a_compiler_the_slow_scan_does_all(drop_compiler):
    config = PreprocessConfig(columns=ALL)
    raw = text_block(b"1\t5\t1.5\t\t9\ta\t\tz\tp|q\tu1\t1000\t2\t0\n")
    expected = fast_scan(Scanner(config), raw)
    drop_compiler()
    without = Scanner(config)
    assert fast_scan(without, raw) is None
    assert plain(without.scan_table(slow_block(raw, config))) == plain(expected)
