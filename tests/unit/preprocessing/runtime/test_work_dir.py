"""Marks say which tasks are done, on disk and in another store."""

import fsspec
import pytest

from ctrdist.storage import Store
from preprocessing.runtime.work_dir import WorkDir, digest


@pytest.fixture(params=["disk", "memory"])
def url(request, tmp_path) -> str:
    if request.param == "disk":
        return str(tmp_path / "work")
    fs = fsspec.filesystem("memory")
    if fs.exists("/work"):
        fs.rm("/work", recursive=True)
    return "memory://work/one"


def test_a_run_of_the_same_plan_resumes_and_another_starts_anew(url):
    work = WorkDir(url)
    assert not work.open({"source": {"files": "1"}})
    work.mark("scan-00000", {"rows": 3})
    again = WorkDir(url)
    assert again.open({"source": {"files": "1"}})
    assert again.marks() == {"scan-00000"} and again.result("scan-00000", dict) == {"rows": 3}
    assert not again.open({"source": {"files": "2"}})
    assert again.marks() == set()
    again.remove()
    assert Store(url).names() == []


def test_what_was_done_for_other_files_is_forgotten(url):
    work = WorkDir(url)
    work.open({"source": "1"})
    for mark in ("scan-00000-aa", "write-a@old", "write-a@new"):
        work.mark(mark, {})
    work.keep_only("new")
    assert work.marks() == {"scan-00000-aa", "write-a@new"}


def test_a_digest_depends_on_content_and_not_on_order():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 3})
