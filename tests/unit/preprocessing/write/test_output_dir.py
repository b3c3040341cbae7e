"""The directory of a data set: checks, lease, row groups and hashes, in a store that is no disk."""

import hashlib
import json
import os
import socket
import subprocess
import time

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctrdist.errors import DataError
from preprocessing.runtime.parquet_writer import new_parquet_file
from preprocessing.write.output_dir import MARKER, SOURCE, Output

SCHEMA = pa.schema([pa.field("label", pa.float32(), nullable=False)])


@pytest.fixture
def path() -> str:
    fs = fsspec.filesystem("memory")
    if fs.exists("/sets"):
        fs.rm("/sets", recursive=True)
    return "memory://sets/one"


def rows(count: int) -> pa.Table:
    return pa.table([pa.array([1.0] * count, pa.float32())], schema=SCHEMA)


@pytest.mark.parametrize("writes", [[25], [3, 7, 15], [1] * 25, [0, 10, 10, 5, 0]])
def test_row_groups_have_one_size_however_rows_arrive(path, writes):
    output = Output(path)
    with new_parquet_file(output.store, "train/part-00000.parquet", SCHEMA, 10) as part:
        for count in writes:
            part.write(rows(count))
    assert part.row_groups == [10, 10, 5]
    raw = fsspec.filesystem("memory").cat_file("/sets/one/train/part-00000.parquet")
    assert part.sha256 == hashlib.sha256(raw).hexdigest()
    assert pq.read_table(pa.BufferReader(raw)).num_rows == 25


def test_a_directory_that_is_written_is_marked(path):
    output, fs = Output(path), fsspec.filesystem("memory")
    lease = output.lease()
    output.store.put("schema.json", b"{}")
    lease.stop()
    assert fs.exists(f"/sets/one/{MARKER}")
    output.check(overwrite=False)  # a run may resume there
    output.store.put("manifest.json", b"{}")
    lease.release()
    assert not fs.exists(f"/sets/one/{MARKER}")
    with pytest.raises(DataError, match="a finished data set is there"):
        output.check(overwrite=False)
    output.check(overwrite=True)
    output.clear()
    assert fs.find("/sets") == []


def test_a_lease_of_another_machine_is_in_force_until_it_expires(path, monkeypatch):
    output = Output(path)
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    lease = output.lease()
    lease.stop()
    monkeypatch.setattr("socket.gethostname", lambda: "this")
    with pytest.raises(DataError, match=r"another run \(process \d+ on another\)"):
        output.check(overwrite=True)
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 61)
    output.check(overwrite=False)


def test_a_process_id_that_is_used_again_does_not_hold_a_lease(path, monkeypatch):
    """The id in the mark is that of a living process of this machine, but not of a run."""
    output = Output(path)
    owner = {"host": socket.gethostname(), "pid": os.getppid(), "time": time.time()}
    output.store.put(MARKER, json.dumps(owner).encode())
    with pytest.raises(DataError, match=r"another run .* if it was killed, for 60 s"):
        output.check(overwrite=True)
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 61)
    output.check(overwrite=True)


def test_the_lease_of_a_process_that_is_gone_is_not_in_force(path):
    output = Output(path)
    ended = subprocess.Popen(["true"])
    ended.wait()
    owner = {"host": socket.gethostname(), "pid": ended.pid, "time": time.time()}
    output.store.put(MARKER, json.dumps(owner).encode())
    output.check(overwrite=True)


def test_only_a_finished_data_set_of_the_same_source_is_unchanged(path):
    output = Output(path)
    assert not output.was_made_of({"files": "1"})
    output.store.put(SOURCE, b'{"files": "1"}')
    assert not output.was_made_of({"files": "1"})  # not finished
    output.store.put("manifest.json", b"{}")
    assert output.was_made_of({"files": "1"}) and not output.was_made_of({"files": "2"})


def test_files_that_no_run_left_are_refused(path):
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/sets/one/train/part-00000.parquet", b"x")
    with pytest.raises(DataError, match=r"files without manifest\.json or \.incomplete"):
        Output(path).check(overwrite=True)
    fs.pipe_file(f"/sets/one/{MARKER}", b"{}")
    Output(path).check(overwrite=False)


def test_a_file_or_an_unknown_protocol_is_no_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="that is a file"):
        Output(str(tmp_path / "file")).check(overwrite=False)
    with pytest.raises(DataError, match="--output nosuch://x"):
        Output("nosuch://x")


def test_a_directory_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        Output(str(tmp_path / "file" / "out")).lease()
