"""Which files are found, in which order, in which shards and splits."""

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctrdist.errors import DataError
from preprocessing.config.settings import ColumnConfig, FormatConfig, PreprocessConfig, SplitConfig
from preprocessing.sources.reader import read_blocks, read_raw_blocks
from preprocessing.sources.shards import InputSplit, find_input_splits

COLUMNS = [ColumnConfig(name="label", role="label"), ColumnConfig(name="c")]


def config(*inputs: object, **settings: object) -> PreprocessConfig:
    values = {"columns": COLUMNS, "input": [str(path) for path in inputs], **settings}
    return PreprocessConfig(**values)  # type: ignore[arg-type]


def files(shard: InputSplit) -> list[str]:
    return [Path(piece.url).name for piece in shard.ranges]


def values(shards: list[InputSplit], settings: PreprocessConfig) -> list[str]:
    blocks = [block for shard in shards for block in read_blocks(shard, settings)]
    return [value for block in blocks for value in block.table.column("c").to_pylist()]


def test_a_folder_is_read_whole_in_the_order_of_names_without_leftovers(tmp_path):
    names = ["day=2/part-0.tsv", "day=10/part-1.tsv", "day=10/part-10.tsv", "day=10/part-9.tsv"]
    leftovers = ["_SUCCESS", ".part.crc", "_temporary/0/part-0.tsv", "day=2/_started"]
    for index, name in enumerate([*names, *leftovers, "day=3/empty.tsv"]):
        path = tmp_path / "log" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("" if "empty" in name else f"1\t{index}\n")
    for given in (tmp_path / "log", tmp_path / "log/day=*", tmp_path / "log/**"):
        settings = config(given)
        shards = find_input_splits(settings)
        assert values(shards, settings) == ["0", "1", "3", "2"], given
        assert len(shards) == 1
    assert values(find_input_splits(s := config(tmp_path / "log/*/part-1*.tsv")), s) == ["1", "2"]


def test_a_name_with_the_signs_of_a_glob_is_a_file_first(tmp_path):
    (tmp_path / "a[1].tsv").write_text("1\tx\n")
    settings = config(tmp_path / "a[1].tsv")
    assert values(find_input_splits(settings), settings) == ["x"]


def test_small_files_are_read_together_and_large_ones_cut(tmp_path):
    sizes = {"a": 40, "b": 40, "c": 40, "d": 300, "e": 40, "f": 100, "g": 40}
    row = 0
    for name, size in sizes.items():
        rows = [f"1\t{row + i:07d}\n" for i in range(size // 10)]
        row += len(rows)
        (tmp_path / f"{name}.tsv").write_text("".join(rows))
    settings = config(tmp_path, shard_bytes=100)
    shards = find_input_splits(settings)
    assert [files(shard) for shard in shards] == [
        *(["a.tsv", "b.tsv"], ["c.tsv"], ["d.tsv"], ["d.tsv"], ["d.tsv"]),
        *(["e.tsv"], ["f.tsv"], ["g.tsv"]),
    ]
    assert [shard.bytes for shard in shards] == [80, 40, 100, 100, 100, 40, 100, 40]
    assert shards[0].name.endswith("a.tsv and 1 more")
    assert values(shards, settings) == [f"{i:07d}" for i in range(row)]
    taken = [block.consumed for s in shards for block in read_raw_blocks(s, settings)]
    assert sum(taken) == sum(sizes.values())


def test_compressed_files_count_as_their_text_and_have_several_members(tmp_path):
    text = [b"".join(b"1\t%d\n" % (i + 1000 * k) for i in range(500)) for k in range(3)]
    (tmp_path / "a.tsv.gz").write_bytes(b"".join(map(gzip.compress, text)))
    frames = b"".join(pa.compress(part, codec="zstd", asbytes=True) for part in text)
    (tmp_path / "b.tsv.zst").write_bytes(frames)
    settings = config(tmp_path)
    expected = [str(i + 1000 * k) for k in range(3) for i in range(500)]
    assert values(find_input_splits(settings), settings) == expected * 2
    sizes = [path.stat().st_size for path in sorted(tmp_path.iterdir())]
    apart = config(tmp_path, shard_bytes=3 * sum(sizes) - 1)
    assert [files(s) for s in find_input_splits(apart)] == [["a.tsv.gz"], ["b.tsv.zst"]]
    together = config(tmp_path, shard_bytes=3 * sum(sizes))
    assert len(find_input_splits(together)) == 1


@pytest.mark.parametrize("groups", [1, 7])
def test_a_large_parquet_file_is_cut_between_row_groups(tmp_path, groups):
    rows = 7000
    table = pa.table({"label": np.zeros(rows), "c": [f"v{i}" for i in range(rows)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=rows // groups)
    size = (tmp_path / "a.parquet").stat().st_size
    for parts in (1, 2, 3, 20):
        settings = config(
            tmp_path, format=FormatConfig(type="parquet"), shard_bytes=-(-3 * size // parts)
        )
        shards = find_input_splits(settings)
        assert len(shards) == parts
        counts = [sum(b.table.num_rows for b in read_blocks(s, settings)) for s in shards]
        assert sum(counts) == rows
        assert sum(map(bool, counts)) == min(groups, parts) or (groups, parts) == (7, 20)
        assert values(shards, settings) == table.column("c").to_pylist()
        places = [b.where(0) for shard in shards for b in read_blocks(shard, settings)]
        assert places[-1].endswith(f"a.parquet: row {rows - counts[-1] + 1}") or not counts[-1]


def test_a_header_is_known_in_every_part_of_a_file(tmp_path):
    for name, header in (("a.csv", "c,label"), ("b.csv", "label,more,c")):
        rows = [f"x{i},1" if header[0] == "c" else f"1,-,x{i}" for i in range(100)]
        (tmp_path / name).write_text("\n".join([header, *rows]) + "\n")
    settings = config(tmp_path, format=FormatConfig(type="csv", header=True), shard_bytes=150)
    shards = find_input_splits(settings)
    assert len(shards) > 5
    assert values(shards, settings) == [f"x{i}" for i in range(100)] * 2
    names = {tuple(b.names) for shard in shards for b in read_raw_blocks(shard, settings)}
    assert names == {("c", "label"), ("label", "more", "c")}


def by_file(**patterns: list[str]) -> SplitConfig:
    return SplitConfig(by="file", **patterns)  # type: ignore[arg-type]


@pytest.fixture
def days(tmp_path: Path) -> Path:
    for day in range(12):
        path = tmp_path / "logs" / f"hour={day % 2}" / f"day_{day}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"1\t{day}\n")
    return tmp_path / "logs"


def test_patterns_of_names_choose_the_split(days):
    settings = config(days, split=by_file(valid=["day_1?.tsv"], test=["hour=1/day_9.*"]))
    shards = find_input_splits(settings)
    found = [(shard.split, [int(name[4:-4]) for name in files(shard)]) for shard in shards]
    assert found == [
        *(("train", [0, 2, 4, 6, 8]), ("valid", [10])),
        *(("train", [1, 3, 5, 7]), ("test", [9]), ("valid", [11])),
    ]


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (by_file(valid=["day_12*"]), r'split\.valid: "day_12\*" matches none of the 12 files \('),
        (by_file(valid=["day_1*"], test=["*_11.tsv"]), r"day_11\.tsv: matches both"),
        (by_file(valid=["day_*"]), "match all 12 files .* none is left for training"),
        (by_file(), "--input names 1 paths"),
    ],
)
def test_patterns_that_do_not_fit_the_files_are_refused(days, split, message):
    with pytest.raises(DataError, match=message):
        find_input_splits(config(days, split=split))


@pytest.mark.slow
def test_a_hundred_thousand_files_are_listed_at_once(tmp_path):
    import time

    for i in range(100_000):
        folder = tmp_path / f"{i // 1000}"
        if i % 1000 == 0:
            folder.mkdir()
        (folder / f"part-{i}.tsv").write_bytes(b"1\tx\n")
    start = time.monotonic()
    shards = find_input_splits(config(tmp_path, shard_bytes=40_000))
    assert time.monotonic() - start < 60
    assert [len(shard.ranges) for shard in shards] == [10_000] * 10


def test_a_folder_without_files_of_the_log_is_told_from_one_that_is_not_there(tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "log/_SUCCESS").write_text("")
    with pytest.raises(DataError, match="log: the folder has no files; those whose names begin"):
        find_input_splits(config(tmp_path / "log"))
    with pytest.raises(DataError, match="lag: no such file"):
        find_input_splits(config(tmp_path / "lag"))
