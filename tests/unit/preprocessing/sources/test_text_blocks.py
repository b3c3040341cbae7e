"""Text logs are read in blocks and ranges without losing a row, and errors name the line."""

import gzip
from itertools import pairwise
from pathlib import Path

import pytest

from ctrdist.errors import DataError
from preprocessing.config.settings import ColumnConfig, FormatConfig, PreprocessConfig
from preprocessing.sources import text_blocks as lines
from preprocessing.sources.raw_block import TableConfig
from preprocessing.sources.reader import raw_blocks
from preprocessing.sources.shards import ByteRange, find_input_splits

TSV = FormatConfig(type="tsv")
COLUMNS = [ColumnConfig(name=n) for n in ("a", "b")]


def whole(path: Path) -> ByteRange:
    return ByteRange(url=str(path), name=path.name, start=0, end=path.stat().st_size)


def rows_of(
    piece: ByteRange,
    layout: FormatConfig = TSV,
    columns: list[ColumnConfig] = COLUMNS,
    block_bytes: int = 10_000,
) -> list[tuple]:
    names = [c.name for c in columns]
    raw = raw_blocks(piece, TableConfig(layout, columns, names), block_bytes)
    blocks = [block.parse() for block in raw]
    return [
        row
        for b in blocks
        for row in zip(*(b.table.column(n).to_pylist() for n in names), strict=True)
    ]


@pytest.mark.parametrize("block_bytes", [7, 64, 10_000])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("closed", [True, False])
def test_all_ranges_together_give_every_line_once(tmp_path, rng, block_bytes, ending, closed):
    expected = [(f"x{i}", "y" * int(rng.integers(1, 30))) for i in range(60)]
    path = tmp_path / "log.tsv"
    body = ending.join("\t".join(row) for row in expected) + (ending if closed else "")
    path.write_bytes(body.encode())
    size = path.stat().st_size
    for edges in (
        [0, size],
        [0, 1, 2, size // 2, size],
        sorted({0, size, *rng.integers(1, size, 9).tolist()}),
    ):
        ranges = pairwise(edges)
        pieces = [ByteRange(url=str(path), name="log", start=low, end=high) for low, high in ranges]
        assert [
            row for piece in pieces for row in rows_of(piece, block_bytes=block_bytes)
        ] == expected


def test_bytes_read_add_up_to_the_file(tmp_path):
    path = tmp_path / "log.tsv"
    path.write_text("1\t2\n" * 500)
    assert sum(b.consumed for b in lines.read_text(whole(path), 100)) == path.stat().st_size


def test_a_larger_text_is_cut_into_ranges_and_a_compressed_one_is_not(tmp_path):
    plain, packed = tmp_path / "a.tsv", tmp_path / "b.tsv.gz"
    plain.write_text("1\t2\n" * 300)
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    columns = [ColumnConfig(name="label", role="label"), ColumnConfig(name="x")]
    shards = find_input_splits(
        PreprocessConfig(input=[str(plain), str(packed)], columns=columns, shard_bytes=400)
    )
    pieces = [[(p.url, p.start, p.end) for p in shard.ranges] for shard in shards]
    plain_pieces = [[(str(plain), i, i + 400)] for i in (0, 400, 800)]
    assert pieces == [*plain_pieces, [(str(packed), 0, packed.stat().st_size)]]


def test_the_line_is_named_also_after_blank_lines_and_in_a_later_range(tmp_path):
    path = tmp_path / "log.tsv"
    rows = ["1\t2", "", "3\t4", "5\t6", "", "", "7\t8", "9\t10\t11", "12\t13"]
    path.write_text("\n".join(rows) + "\n")
    late = ByteRange(url=str(path), name="log.tsv", start=9, end=path.stat().st_size)
    for piece in (whole(path), late):
        with pytest.raises(
            DataError, match=r"^log\.tsv:8: 3 columns, expected 2 \(a, b\), separated by tab\. Fix"
        ):
            rows_of(piece, block_bytes=16)


def test_long_separators_foreign_encodings_and_marks_at_the_start(tmp_path):
    path = tmp_path / "films.dat"
    path.write_bytes("1::Caf\xe9: the film::x\n2::b::y\n".encode("latin-1"))
    layout = FormatConfig(type="csv", separator="::", quote="", encoding="latin-1")
    columns = [ColumnConfig(name=n) for n in ("id", "title", "x")]
    assert rows_of(whole(path), layout, columns) == [("1", "Café: the film", "x"), ("2", "b", "y")]
    with pytest.raises(DataError, match=r"films\.dat:1: not utf-8 .*latin-1"):
        rows_of(whole(path), FormatConfig(type="csv", separator="::", quote=""), columns)
    path.write_bytes(b"\xef\xbb\xbf1\t2\n")
    assert rows_of(whole(path)) == [("1", "2")]


def test_a_header_is_found_by_name_and_further_columns_are_let_be(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text('\nb,more,a\n"1, one",2,3\n')
    layout = FormatConfig(type="csv", header=True)
    assert rows_of(whole(path), layout) == [("3", "1, one")]
    with pytest.raises(
        DataError, match=r"log\.csv:2: the header has no column z; it has b, more, a\."
    ):
        rows_of(whole(path), layout, [ColumnConfig(name="z")])


def test_a_quote_that_stays_open_is_told_and_no_row_swallowed(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text('1,2\n3,"4\n5,6\n7,8"\n')
    with pytest.raises(DataError, match=r"log\.csv:2: a quote"):
        rows_of(whole(path), FormatConfig(type="csv"))


def test_a_cut_off_archive_is_told(tmp_path):
    path = tmp_path / "log.tsv.gz"
    path.write_bytes(gzip.compress(b"1\t2\n" * 50_000)[:-40])
    with pytest.raises(DataError, match=r"log\.tsv\.gz: damaged or cut off"):
        rows_of(whole(path))


def test_texts_for_missing_become_null(tmp_path):
    path = tmp_path / "log.tsv"
    path.write_text("NA\t1\n\t-\n")
    assert rows_of(whole(path), FormatConfig(missing=["", "NA"])) == [(None, "1"), (None, "-")]
