"""Files are whole or absent, and names mean what they say: on disk, in memory and on S3."""

import ast
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from ctrdist import storage
from ctrdist.storage import StorageError, Store, filesystem, find_files, is_storage_error, open_file
from tests.s3_server import S3Server

ROOT = Path(storage.__file__).parents[1]
WILD = ("run[1]", "run*", "run?", "[!a]", "a b", "x#y%20")


@pytest.fixture(scope="module")
def s3(tmp_path_factory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("s3")
    (root / "logs").mkdir()
    server = S3Server(root)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        server.start()
        yield "s3://logs"
        server.kill()
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture(params=["disk", "memory", "s3"])
def url(request, tmp_path) -> str:
    if request.param == "disk":
        return str(tmp_path / "top")
    address = "memory://top" if request.param == "memory" else request.getfixturevalue("s3")
    Store(f"{address}/one").remove()
    return f"{address}/one"


def test_a_written_file_is_read_in_any_process(url):
    store = Store(url)
    with store.write("a/b") as file:
        file.write(b"0123")
        file.write(b"456789")
    assert store.exists("a/b") and store.names() == ["a/b"]
    assert (
        not store.exists("a")
        and store.kind() == "directory"
        and Store(f"{url}/a/b").kind() == "file"
    )
    assert store.get("a/b") == b"0123456789"
    assert store.get_range("a/b", 3, 6) == b"345" and store.get_range("a/b", 6, 6) == b""
    with store.input("a/b") as source:
        source.seek(8)
        assert source.read() == b"89"
    with open_file(f"{url}/a/b") as file:
        assert file.read() == b"0123456789"
    view = memoryview(bytearray(4))
    store.read_into("a/b", 2, view)
    assert bytes(view) == b"2345"
    with pytest.raises(EOFError):
        store.read_into("a/b", 8, view)
    store.put("a/b", b"new")
    assert pickle.loads(pickle.dumps(store)).get("a/b") == b"new"
    for access in (store.get, store.input, lambda n: store.get_range(n, 0, 1)):
        with pytest.raises(FileNotFoundError):
            access("c")


def test_files_and_folders_are_listed(url):
    store = Store(url)
    assert store.files() == {} and store.folders() == [] and store.names() == []
    for name in ("b", "a", "folder/c", "folder/deep/d", ".hidden"):
        store.put(name, b"xy")
    assert store.files() == {"b": 2, "a": 2, ".hidden": 2}
    assert store.folders() == ["folder"]
    assert store.names() == ["a", "b", "folder/c", "folder/deep/d"]
    assert store.names("folder") == ["folder/c", "folder/deep/d"]
    assert store.child("folder").files() == {"c": 2}
    assert str(store.child("folder")) == f"{url}/folder"


@pytest.mark.parametrize("wild", WILD)
def test_a_name_with_a_wildcard_is_only_a_name(url, wild):
    others = ("run1", "runs", "run", "a", "b", "x")
    for name in (wild, *others):
        Store(f"{url}/{name}").put("kept", name.encode())
        Store(f"{url}/{name}").put("folder/[1]*", name.encode())
        Store(f"{url}/{name}").put("folder/1", name.encode())
    store = Store(f"{url}/{wild}")
    assert store.exists("kept") and store.get("kept") == wild.encode()
    assert store.names() == ["folder/1", "folder/[1]*", "kept"]
    store.remove("folder/[1]*")
    assert store.names() == ["folder/1", "kept"]
    assert not store.exists("k*") and not store.exists("folder/[1]")
    store.remove("[a-z]*")
    store.remove("*")
    assert store.names() == ["folder/1", "kept"]
    Store(url).remove(wild)
    assert store.names() == [] and not store.exists("kept")
    assert Store(url).folders() == sorted(others)
    for name in others:
        assert Store(f"{url}/{name}").names() == ["folder/1", "folder/[1]*", "kept"]


def test_what_is_removed_need_not_exist(url):
    store = Store(url)
    store.put("a/b", b"")
    store.put("ab", b"")
    store.remove("nothing")
    store.remove("a/b/c")
    store.remove("a")
    store.remove("a")
    assert store.names() == ["ab"]
    store.remove()
    assert store.names() == []


def test_a_file_that_was_cut_off_is_not_there(url):
    if url.startswith("memory"):
        pytest.skip("fsspec's files in memory are visible while they are written")
    store = Store(url)
    store.put("a/old", b"old")
    for name in ("a/b", "a/old"):
        with pytest.raises(RuntimeError, match="cut off"), store.write(name) as file:
            file.write(b"half")
            raise RuntimeError("cut off")
    assert store.names() == ["a/old"] and not store.exists("a/b")
    assert store.get("a/old") == b"old"
    assert list(store.child("a").files()) == ["old"]


def test_files_being_written_are_not_listed(tmp_path):
    store = Store(tmp_path)
    with store.write("part") as file:
        file.write(b"x")
        assert store.names() == [] and len(os.listdir(tmp_path)) == 1
    assert store.names() == ["part"]


def test_a_file_is_durable_before_it_has_its_name_and_its_name_afterwards(tmp_path, monkeypatch):
    synced = []

    def fsync(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        synced.append((path, sorted(os.listdir(tmp_path / "a"))))

    monkeypatch.setattr(os, "fsync", fsync)
    Store(tmp_path).put("a/b", b"x")
    hidden = f".b.{os.getpid()}"
    assert synced == [(str(tmp_path / "a" / hidden), [hidden]), (str(tmp_path / "a"), ["b"])]


def test_another_process_may_have_another_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Store("here").put("a", b"x")
    sent = pickle.dumps(Store("here"))
    monkeypatch.chdir("/")
    assert pickle.loads(sent).get("a") == b"x"


def test_an_unknown_kind_of_url_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="nonsense"):
        Store("nonsense://a/b")
    assert filesystem(f"{tmp_path}/a::b")[1] == f"{tmp_path}/a::b"  # fsspec would take it for two


def test_failures_of_a_library_are_os_errors(s3, monkeypatch):
    store = Store(f"{s3}/far")
    store.put("a", b"x")
    monkeypatch.setattr(store._fs, "cat_file", _no_server)
    with pytest.raises(StorageError, match="Could not connect") as caught:
        store.get("a")
    assert is_storage_error(caught.value) and is_storage_error(caught.value.__cause__)
    assert not is_storage_error(KeyError("x"))


def _no_server(*args: object, **kwargs: object) -> bytes:
    from botocore.exceptions import EndpointConnectionError

    raise EndpointConnectionError(endpoint_url="http://127.0.0.1:9")


def test_a_path_a_folder_and_a_glob_find_files(url):
    store = Store(url)
    names = (
        "a.tsv",
        "b.tsv",
        "_SUCCESS",
        ".hidden",
        "_temporary/c.tsv",
        "_day=1/d.tsv",
        "e[1].tsv",
    )
    for name in names:
        store.put(name, b"xyz")

    def found(path: str) -> list[str]:
        files = find_files(f"{url}/{path}".rstrip("/"))
        assert all(file.size == 3 and Store(url).kind() == "directory" for file in files)
        top = f"/{url.rpartition('/')[2]}/"
        return sorted(file.url.rpartition(top)[2] for file in files)

    assert found("") == ["_day=1/d.tsv", "a.tsv", "b.tsv", "e[1].tsv"]
    assert found("a.tsv") == ["a.tsv"] and found("_SUCCESS") == ["_SUCCESS"]
    assert found("*.tsv") == ["a.tsv", "b.tsv", "e[1].tsv"]
    assert found("*") == ["_day=1/d.tsv", "a.tsv", "b.tsv", "e[1].tsv"]
    assert found("e[1].tsv") == ["e[1].tsv"] and found("none*") == found("none") == []


def test_one_module_knows_fsspec_and_the_options_of_s3():
    found = set()
    for package in ("ctrdist", "preprocessing", "cluster", "jobs"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                if any(n.split(".")[0] in ("fsspec", "s3fs", "botocore") for n in names):
                    found.add(path.relative_to(ROOT).as_posix())
    assert found == {"ctrdist/storage.py"}
