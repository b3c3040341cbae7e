"""Small and large files in one directory, local or s3://, each of them whole or not there."""

from __future__ import annotations

import hashlib
import io
import os
import posixpath
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.fs as pa_fs
from fsspec.spec import AbstractBufferedFile

from preprocessing.runtime.outages import outlast_outages


def _sent(url: str) -> Store:
    """The store in another process, a task's: it was there a moment ago."""
    store = Store(url)
    store.be_patient()
    return store


class Store:
    """A directory. Can be sent to any process; names are relative to it, with forward slashes."""

    def __init__(self, url: str) -> None:
        """`url`: a local path or s3://…; it need not exist."""
        self.url = url
        options: dict[str, Any] = {}
        if url.startswith("s3://"):
            # some servers send the whole file's checksum with a part of it, and parts are read here
            options["config_kwargs"] = {"response_checksum_validation": "when_required"}
        self._fs, root = fsspec.core.url_to_fs(url, **options)
        self._root = root.rstrip("/")

    def __reduce__(self) -> tuple[Callable[[str], Store], tuple[str]]:
        return _sent, (self.url,)

    def be_patient(self) -> None:
        """From now on, what finds no server is tried again for a while."""
        if "s3" in self._fs.protocol:
            outlast_outages()

    @property
    def local(self) -> bool:
        """Whether it lies in this machine's file system."""
        return "file" in self._fs.protocol

    def at(self, name: str) -> str:
        """Where a file is, in its file system's own words."""
        return posixpath.join(self._root, name)

    @contextmanager
    def write(self, name: str) -> Iterator[IO[bytes]]:
        """A new file, seen by others only once the block ends, and only if it ends well."""
        path = self.at(name)
        if not self.local:
            # s3fs sends the last part, without which the object does not exist, when it is closed.
            file = self._fs.open(path, "wb")
            try:
                yield file
            except BaseException:
                file.discard()
                if isinstance(file, AbstractBufferedFile):
                    file.closed = True  # or else it is sent once nobody holds it any more
                raise
            file.close()
            return
        os.makedirs(posixpath.dirname(path), exist_ok=True)
        hidden = f"{posixpath.dirname(path)}/.{posixpath.basename(path)}.{os.getpid()}"
        try:
            with open(hidden, "wb") as file:
                yield file
            os.replace(hidden, path)
        except BaseException:
            if os.path.exists(hidden):
                os.remove(hidden)
            raise

    def put(self, name: str, content: bytes) -> None:
        """Writes a small file."""
        with self.write(name) as file:
            file.write(content)

    def get(self, name: str) -> bytes:
        """Reads a small file; raises FileNotFoundError."""
        return bytes(self._fs.cat_file(self.at(name)))

    def get_range(self, name: str, start: int, end: int) -> bytes:
        """Bytes [start, end) of a file; raises FileNotFoundError, where there are any."""
        if start >= end:  # S3 refuses a range of none
            return b""
        if self.local:
            with open(self.at(name), "rb") as file:
                file.seek(start)
                return file.read(end - start)
        return bytes(self._fs.cat_file(self.at(name), start=start, end=end))

    def input(self, name: str) -> pa.NativeFile:
        """For random access by Arrow: a memory map where that is possible."""
        if self.local:
            return pa.memory_map(self.at(name), "r")
        handler = pa_fs.FSSpecHandler(self._fs)
        return pa_fs.PyFileSystem(handler).open_input_file(self.at(name))

    def is_file(self) -> bool:
        """Whether there is a file in the directory's place."""
        self._fs.invalidate_cache()
        return bool(self._fs.isfile(self._root))

    def exists(self, name: str) -> bool:
        """Whether the file is there, whole."""
        self._fs.invalidate_cache()
        return bool(self._fs.exists(self.at(name)))

    def names(self, folder: str = "") -> list[str]:
        """All files below a folder, sorted; those that are being written left out."""
        self._fs.invalidate_cache()
        top = self.at(folder)
        if not self._fs.isdir(top):
            return []
        found: list[Any] = self._fs.find(top)
        names = [posixpath.relpath(path, self._root) for path in found]
        return sorted(n for n in names if not posixpath.basename(n).startswith("."))

    def remove(self, folder: str) -> None:
        """Removes a file or a folder with all that is in it; it need not exist."""
        try:
            self._fs.rm(self.at(folder), recursive=True)
        except FileNotFoundError:
            return

    def remove_empty(self) -> None:
        """Removes the directory, if there is nothing in it but empty folders."""
        if not self.local or not os.path.isdir(self._root):
            return
        for folder, _, _ in os.walk(self._root, topdown=False):
            if not os.listdir(folder):
                os.rmdir(folder)


class HashingFile(io.RawIOBase):
    """Passes what is written on, and hashes it."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._position = 0
        self.sha256 = hashlib.sha256()

    def writable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Bytes so far."""
        return self._position

    def write(self, data: Any) -> int:
        """Writes and hashes bytes."""
        view = memoryview(data)
        self.sha256.update(view)
        self._file.write(view)
        self._position += view.nbytes
        return view.nbytes
