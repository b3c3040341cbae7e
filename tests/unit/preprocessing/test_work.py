"""Files are whole or not there, and marks say what is done, here in a disk and in another store."""

from __future__ import annotations

import os
import pickle

import fsspec
import pytest

from preprocessing.runtime.store import Store
from preprocessing.runtime.work_dir import Work, digest, stamped


@pytest.fixture(params=["disk", "memory"])
def url(request, tmp_path) -> str:
    if request.param == "disk":
        return str(tmp_path / "work")
    fs = fsspec.filesystem("memory")
    if fs.exists("/work"):
        fs.rm("/work", recursive=True)
    return "memory://work/one"


def test_a_file_that_was_cut_off_is_not_there(tmp_path):
    store = Store(str(tmp_path))
    with pytest.raises(RuntimeError, match="cut off"), store.write("a/b") as file:
        file.write(b"half")
        raise RuntimeError("cut off")
    assert store.names() == [] and not store.exists("a/b")
    assert os.listdir(tmp_path / "a") == []


def test_what_is_written_is_read_in_any_process(url):
    store = Store(url)
    with store.write("a/b") as file:
        file.write(b"0123")
        file.write(b"456789")
    assert store.exists("a/b") and store.names() == ["a/b"]
    assert store.get("a/b") == b"0123456789"
    assert store.get_range("a/b", 3, 6) == b"345"
    with store.input("a/b") as source:
        source.seek(8)
        assert source.read() == b"89"
    store.put("a/b", b"new")
    assert pickle.loads(pickle.dumps(store)).get("a/b") == b"new"
    with pytest.raises(FileNotFoundError):
        store.get("c")
    store.remove("a")
    store.remove("a")
    assert store.names() == []


def test_files_under_way_are_not_listed(tmp_path):
    store = Store(str(tmp_path))
    with store.write("part") as file:
        file.write(b"x")
        assert store.names() == [] and len(os.listdir(tmp_path)) == 1
    assert store.names() == ["part"]


def test_a_run_goes_on_where_it_was_and_another_begins_anew(url):
    work = Work(url)
    assert not work.open({"source": {"files": "1"}})
    work.mark("scan-00000", {"rows": 3})
    again = Work(url)
    assert again.open({"source": {"files": "1"}})
    assert again.marks() == {"scan-00000"} and again.summary("scan-00000") == {"rows": 3}
    assert not again.open({"source": {"files": "2"}})
    assert again.marks() == set()
    again.remove()
    assert Store(url).names() == []


def test_what_was_done_for_other_files_is_forgotten(url):
    work = Work(url)
    work.open({"source": "1"})
    for mark in ("scan-00000-aa", stamped("write-a", "old"), stamped("write-a", "new")):
        work.mark(mark, {})
    work.keep_only("new")
    assert work.marks() == {"scan-00000-aa", "write-a@new"}


def test_a_digest_stands_for_content_and_not_for_order():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 3})
