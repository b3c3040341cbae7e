"""Files and object stores: every read, write, listing and removal of data goes through here."""

from __future__ import annotations

import hashlib
import io
import os
import posixpath
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Self

import fsspec
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractBufferedFile

_LIBRARIES = ("botocore", "aiobotocore", "aiohttp", "s3fs")
"""Libraries whose own exceptions mean that a store failed."""
_PART_BYTES = 32 * 2**20
"""Size of the parts of an upload to S3. It allows 10,000 parts, so a file may have 300 GB."""


class StorageError(OSError):
    """An address that no library can open, or a failure that a store's library reports."""


def filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system behind a local path or URL, and the path in it.

    Raises:
        StorageError: no installed library opens such a URL.
    """
    if "://" not in url:
        return LocalFileSystem(use_listings_cache=False), os.path.abspath(os.path.expanduser(url))
    # Other processes write to the same place, so a listing must never come from a cache.
    options: dict[str, Any] = {"use_listings_cache": False}
    if url.startswith(("s3://", "s3a://")):
        # Some servers send the checksum of the whole file with a part of it, and parts are read.
        options["config_kwargs"] = {"response_checksum_validation": "when_required"}
    try:
        fs, path = fsspec.core.url_to_fs(url, **options)
    except (ValueError, ImportError) as error:
        raise StorageError(str(error)) from error
    return fs, path


def open_file(url: str) -> IO[bytes]:
    """Opens a file for reading."""
    fs, path = filesystem(url)
    with _translated():
        file: IO[bytes] = fs.open(path, "rb")
        return file


@dataclass(frozen=True, kw_only=True)
class FoundFile:
    """A file that a user's path leads to."""

    url: str
    """Its URL or local path."""
    path: str
    """Its path in its file system."""
    size: int
    version: str
    """Changes when the file changes."""


def find_files(url: str) -> list[FoundFile]:
    """The file at a path, all files below a folder, or all that match a glob, in any order.

    Leftovers of other tools, such as _SUCCESS or _temporary/…, are left out. One listing tells all
    sizes: a request for each of a hundred thousand files would take hours.
    """
    fs, root = filesystem(url)
    with _translated():
        found: dict[str, dict[str, Any]] = {}
        if fs.isfile(root):
            found[root] = fs.info(root)
        elif fs.isdir(root):
            found = fs.find(root, detail=True)
            found = {name: i for name, i in found.items() if not _is_leftover(name, root)}
        elif wild := re.search(r"[*?[]", root):
            top = posixpath.dirname(root[: wild.start()])
            for name, info in fs.glob(root, detail=True).items():
                is_folder = info["type"] == "directory"
                found |= fs.find(name, detail=True) if is_folder else {name: info}
            found = {name: i for name, i in found.items() if not _is_leftover(name, top)}
    return [
        FoundFile(
            url=name if "file" in fs.protocol else fs.unstrip_protocol(name),
            path=name,
            size=info["size"] or 0,
            version=str(info.get("ETag") or info.get("mtime") or info.get("LastModified") or ""),
        )
        for name, info in found.items()
        if info["type"] == "file"
    ]


def _is_leftover(name: str, top: str) -> bool:
    parts = name[len(top) :].strip("/").split("/")  # The folder _day=1 is a partition.
    return any(p.startswith(".") or (p.startswith("_") and "=" not in p) for p in parts)


def is_storage_error(error: BaseException) -> bool:
    """True if a disk or a store failed, and not this code."""
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _LIBRARIES


@lru_cache
def retry_unreachable_s3() -> None:
    """Makes this process retry S3 requests that reach no server, for half a minute or more.

    botocore tries a request five times within about ten seconds. s3fs retries some failures after
    that, but not that of a server that does not answer, for instance because it restarts. Reading a
    file is retried for about three minutes. Call this only after the first access: a wrong address
    should be reported at once.
    """
    import s3fs.core
    from botocore import exceptions as boto

    def is_transient(error: Exception) -> bool:
        if isinstance(error, boto.ClientError):
            return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) >= 500
        lasting = isinstance(error, FileNotFoundError | PermissionError)
        return not lasting and isinstance(
            error, boto.ConnectionError | boto.HTTPClientError | OSError
        )

    s3fs.core.set_custom_error_handler(is_transient)


class Store:
    """One directory, local or in an object store. Names are relative to it, with forward slashes.

    A file that is written appears whole or not at all, and is durable once written. Names mean what
    they say: no method treats `*`, `?` or `[` as a pattern. Can be sent to other processes, which
    then retry requests that reach no server.

    Every method raises FileNotFoundError for a missing file, and any other OSError, among them
    :class:`StorageError`, where a disk or a store fails.
    """

    def __init__(self, url: str | Path) -> None:
        """Touches nothing.

        Args:
            url: a local path, s3://… or any other URL that fsspec opens; it need not exist.
        """
        self.url = str(url).rstrip("/")
        with self._access():
            self._fs, root = filesystem(self.url or "/")
        self._root = root.rstrip("/")
        self.local = isinstance(self._fs, LocalFileSystem)
        """True if the directory lies in this machine's file system."""

    def __str__(self) -> str:
        return self.url

    def __reduce__(self) -> tuple[Any, tuple[type[Store], str]]:
        # Another process may have another working directory.
        return _received, (type(self), self._root if self.local else self.url)

    def child(self, name: str) -> Self:
        """A directory within this one."""
        return type(self)(f"{self.url}/{name}")

    def path(self, name: str) -> str:
        """Path of a file in its file system."""
        return posixpath.join(self._root, name)

    def retry_unreachable(self) -> None:
        """Makes this process retry requests that reach no server."""
        if "s3" in self._fs.protocol:
            retry_unreachable_s3()

    @contextmanager
    def write(self, name: str) -> Iterator[IO[bytes]]:
        """A new file. Others see it once the block ends without an error."""
        with self._access(), self._write_local(name) if self.local else self._upload(name) as file:
            yield file

    def put(self, name: str, content: bytes) -> None:
        """Writes a small file."""
        with self.write(name) as file:
            file.write(content)

    def get(self, name: str) -> bytes:
        """Content of a small file."""
        with self._access():
            return bytes(self._fs.cat_file(self.path(name)))

    def get_range(self, name: str, start: int, end: int) -> bytes:
        """Bytes [start, end) of a file; fewer where it ends before."""
        if start >= end:  # S3 refuses an empty range.
            return b""
        with self._access():
            if not self.local:
                return bytes(self._fs.cat_file(self.path(name), start=start, end=end))
            with open(self.path(name), "rb") as file:
                file.seek(start)
                return file.read(end - start)

    def get_ranges(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """Byte ranges (name, start, end) of files; many at a time from an object store."""
        if self.local:
            return [self.get_range(*one) for one in ranges]
        paths = [self.path(name) for name, _, _ in ranges]
        starts, ends = [start for _, start, _ in ranges], [end for _, _, end in ranges]
        with self._access():
            found = self._fs.cat_ranges(paths, starts, ends, on_error="raise")
            return [bytes(content) for content in found]

    def read_into(self, name: str, start: int, view: memoryview) -> None:
        """Fills the view with a file's bytes from `start` on; EOFError where there are fewer."""
        filled = 0
        if self.local:
            with self._access(), open(self.path(name), "rb", buffering=0) as file:
                file.seek(start)
                while filled < len(view) and (count := file.readinto(view[filled:])):
                    filled += count
        else:
            data = self.get_range(name, start, start + len(view))
            filled = len(data)
            view[:filled] = data
        if filled < len(view):
            raise EOFError(self.path(name))

    def input(self, name: str) -> pa.NativeFile:
        """A file for random access by Arrow: a memory map where that is possible."""
        with self._access():
            if self.local:
                return pa.memory_map(self.path(name), "r")
            # Arrow asks for all that it needs at once; reading ahead would only add to it.
            return pa.PythonFile(self._fs.open(self.path(name), "rb", cache_type="none"), "r")

    def kind(self, name: str = "") -> str:
        """The word file or directory; empty if nothing is there."""
        # Not fsspec's isfile and exists: some take a lost connection for a missing file.
        with self._access():
            try:
                return str(self._fs.info(self.path(name).rstrip("/"))["type"])
            except (FileNotFoundError, NotADirectoryError):
                return ""

    def exists(self, name: str) -> bool:
        """True if the file is there; raises an error where that cannot be known."""
        return self.kind(name) == "file"

    def files(self) -> dict[str, int]:
        """Names and sizes of the files directly in the directory; none where it does not exist."""
        return {name: size for name, (kind, size) in self._list().items() if kind == "file"}

    def folders(self) -> list[str]:
        """Names of the folders directly in the directory, sorted."""
        return sorted(name for name, (kind, _) in self._list().items() if kind == "directory")

    def names(self, folder: str = "") -> list[str]:
        """All files below a folder, sorted; hidden ones and those being written are left out."""
        names = (posixpath.relpath(path, self._root) for path in self._find(folder))
        return sorted(name for name in names if not posixpath.basename(name).startswith("."))

    def remove(self, name: str = "") -> None:
        """Removes a file, or a folder with all that is in it; it need not exist."""
        path = self.path(name).rstrip("/")
        with self._access():
            if not self.local:
                found = self._find(name)
                # fsspec's `rm` is the only way to remove many files in one request, but it takes
                # names for patterns. `rm_file` does not.
                plain = [p for p in found if len(found) > 1 and not set("*?[") & set(p)]
                if plain:
                    self._fs.rm(plain)
                for other in set(found).difference(plain):
                    self._fs.rm_file(other)
            elif os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            else:
                with suppress(FileNotFoundError, NotADirectoryError):
                    os.remove(path)

    def remove_empty(self) -> None:
        """Removes the directory if it holds nothing but empty folders."""
        if not self.local or not os.path.isdir(self._root):
            return
        for folder, _, _ in os.walk(self._root, topdown=False):
            if not os.listdir(folder):
                os.rmdir(folder)

    @contextmanager
    def _access(self) -> Iterator[None]:
        """Surrounds every access: turns exceptions of a store's library into OSErrors."""
        with _translated():
            yield

    @contextmanager
    def _write_local(self, name: str) -> Iterator[IO[bytes]]:
        path = self.path(name)
        folder = posixpath.dirname(path)
        os.makedirs(folder, exist_ok=True)
        hidden = f"{folder}/.{posixpath.basename(path)}.{os.getpid()}"
        try:
            with open(hidden, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(hidden, path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.remove(hidden)
            raise
        descriptor = os.open(folder or "/", os.O_RDONLY)
        try:
            os.fsync(descriptor)  # the name, as the first one does for the content
        finally:
            os.close(descriptor)

    @contextmanager
    def _upload(self, name: str) -> Iterator[IO[bytes]]:
        file = self._fs.open(self.path(name), "wb", block_size=_PART_BYTES)
        try:
            yield file
        except BaseException:
            file.discard()
            if isinstance(file, AbstractBufferedFile):
                file.closed = True  # Otherwise the file is uploaded when it is garbage collected.
            raise
        file.close()  # Sends the last part, without which the object does not exist.

    def _list(self) -> dict[str, tuple[str, int]]:
        with self._access():
            try:
                found = self._fs.ls(self._root, detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return {}
        names = ((entry["name"].rstrip("/").rpartition("/")[2], entry) for entry in found)
        return {name: (entry["type"], entry["size"] or 0) for name, entry in names}

    def _find(self, name: str) -> list[str]:
        with self._access():
            try:
                return list(self._fs.find(self.path(name).rstrip("/")))
            except FileNotFoundError:
                return []


class HashingFile(io.RawIOBase):
    """Passes what is written on to another file, and hashes it."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._position = 0
        self.sha256 = hashlib.sha256()

    def writable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Number of bytes written."""
        return self._position

    def write(self, data: Any) -> int:
        """Writes and hashes bytes."""
        view = memoryview(data)
        self.sha256.update(view)
        self._file.write(view)
        self._position += view.nbytes
        return view.nbytes


def _received(kind: type[Store], url: str) -> Store:
    """A store that another process sent; it was reachable there."""
    store = kind(url)
    store.retry_unreachable()
    return store


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) or not is_storage_error(error):
            raise
        raise StorageError(str(error) or type(error).__name__) from error
