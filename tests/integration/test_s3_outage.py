"""Reading goes on when the S3 server is killed and started anew: a real one (rclone), killed."""

import gzip
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from ctrdist.errors import DataError
from preprocessing.config.settings import ColumnConfig, FormatConfig, PreprocessConfig, SplitConfig
from preprocessing.sources.reader import read_blocks
from preprocessing.sources.shards import find_input_splits
from tests.s3_server import S3Server

ROWS = 20_000


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    (tmp_path / "logs").mkdir()
    server = S3Server(tmp_path)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    server.start()
    yield server
    server.kill()
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def config(*inputs: str, **settings: object) -> PreprocessConfig:
    columns = [ColumnConfig(name="label", role="label"), ColumnConfig(name="c")]
    return PreprocessConfig(columns=columns, input=list(inputs), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [1, pytest.param(16, marks=pytest.mark.slow)])
def test_a_server_that_is_killed_while_a_log_is_read(server, tmp_path, seconds):
    text = "".join(f"{i % 2}\tv{i}\n" for i in range(ROWS)).encode()
    for name, stored in (("a.tsv", text), ("b.tsv.gz", gzip.compress(text)), ("c.tsv", text)):
        (tmp_path / "logs" / name).write_bytes(stored)
    settings = config("s3://logs/")
    (shard,) = find_input_splits(settings)
    assert [piece.url for piece in shard.ranges] == [
        f"s3://logs/{name}" for name in ("a.tsv", "b.tsv.gz", "c.tsv")
    ]
    blocks = read_blocks(shard, settings)
    values = next(blocks).table.column("c").to_pylist()
    server.kill()
    back = threading.Timer(seconds, server.start)
    back.start()
    for block in blocks:
        values += block.table.column("c").to_pylist()
    back.join()
    assert values == [f"v{i}" for i in range(ROWS)] * 3


def test_folders_globs_and_splits_there(server, tmp_path):
    for day in range(3):
        folder = tmp_path / "logs" / f"day={day}"
        folder.mkdir()
        (folder / "part-0.jsonl").write_text(f'{{"label": 1, "c": "v{day}"}}\n')
        (folder / "_SUCCESS").write_text("")
    split = SplitConfig(by="file", valid=["day=1/*"], test=["day=2/*"])
    settings = config("s3://logs/day=*", format=FormatConfig(type="jsonl"), split=split)
    shards = find_input_splits(settings)
    assert [shard.split for shard in shards] == ["train", "valid", "test"]
    rows = [b.table.column("c").to_pylist() for s in shards for b in read_blocks(s, settings)]
    assert rows == [["v0"], ["v1"], ["v2"]]


def test_a_file_that_is_gone_by_the_time_it_is_read_is_named(server, tmp_path):
    (tmp_path / "logs" / "a.tsv").write_text("1\tx\n")
    settings = config("s3://logs/a.tsv")
    (shard,) = find_input_splits(settings)
    store, _ = fsspec.core.url_to_fs("s3://logs")
    store.rm_file("logs/a.tsv")
    with pytest.raises(DataError, match=r"s3://logs/a\.tsv: cannot be read \(.*Check that it is"):
        list(read_blocks(shard, settings))
