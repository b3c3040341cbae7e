"""A directory of a checkpoint: local, s3:// or any other address that fsspec opens."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from ctrdist.errors import CheckpointError, DamagedCheckpointError

_PART_BYTES = 32 * 2**20
"""Of a multipart upload; 10,000 parts are allowed, so a worker's file may have 300 GB."""


class Folder:
    """Reads and writes the files of one directory. A file written whole appears whole or not."""

    def __init__(self, address: str | Path) -> None:
        """Touches nothing.

        Raises:
            CheckpointError: fsspec knows no such kind of address.
        """
        self.address = str(address).rstrip("/")
        # other processes write here too, so a listing must never come from a cache
        options: dict[str, Any] = {"use_listings_cache": False}
        if self.address.startswith("s3://"):
            # some servers send the whole file's checksum with a part of it; ours cover the parts
            options["config_kwargs"] = {"response_checksum_validation": "when_required"}
        with _reaching(self.address):
            self._fs, self._root = fsspec.core.url_to_fs(self.address, **options)
        self._local = isinstance(self._fs, LocalFileSystem)

    def __str__(self) -> str:
        return self.address

    @property
    def name(self) -> str:
        """Last part of the address."""
        return self.address.rpartition("/")[2]

    @property
    def parent(self) -> str:
        """The address without its last part."""
        return self.address.rpartition("/")[0]

    def child(self, name: str) -> Folder:
        """A folder within this one."""
        return Folder(f"{self.address}/{name}")

    def files(self) -> dict[str, int]:
        """Name and size of each file; none where the folder does not exist."""
        return {name: size for name, (kind, size) in self._list().items() if kind == "file"}

    def folders(self) -> list[str]:
        """Names of the folders within."""
        return [name for name, (kind, _) in self._list().items() if kind == "directory"]

    def make(self) -> None:
        """Makes the folder; object stores have none, and need none."""
        if self._local:
            Path(self._root).mkdir(parents=True, exist_ok=True)

    def has(self, name: str) -> bool:
        """Whether the file is there; an error where that cannot be known."""
        return name in self.files()  # fsspec's isfile takes a lost connection for a missing file

    def read(self, name: str) -> bytes:
        """The whole of a small file."""
        with _reaching(self.address):
            return self._fs.cat_file(self._path(name))

    def read_into(self, name: str, begin: int, view: memoryview) -> None:
        """Fills the view with a file's bytes from `begin` on."""
        with _reaching(self.address):
            if self._local:
                with open(self._path(name), "rb", buffering=0) as handle:
                    handle.seek(begin)
                    done = 0
                    while done < len(view):
                        count = handle.readinto(view[done:])
                        if not count:
                            raise EOFError(self._path(name))
                        done += count
            else:
                data = self._fs.cat_file(self._path(name), start=begin, end=begin + len(view))
                if len(data) != len(view):
                    raise EOFError(self._path(name))
                view[:] = data

    def write(self, name: str, data: bytes) -> None:
        """Writes a small file: afterwards it is there and on disk, whatever happens next."""
        with _reaching(self.address):
            path = self._path(name)
            if not self._local:
                self._fs.pipe_file(path, data)
                return
            with open(f"{path}.tmp", "wb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(f"{path}.tmp", path)
            self._sync()

    @contextmanager
    def stream(self, name: str) -> Iterator[Any]:
        """A large file to write from begin to end; multipart where the store has that."""
        with _reaching(self.address):
            path = self._path(name)
            if not self._local:
                with self._fs.open(path, "wb", block_size=_PART_BYTES) as handle:
                    yield handle
                return
            with open(path, "wb") as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            self._sync()

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        with _reaching(self.address):
            if self.has(name):
                self._fs.rm_file(self._path(name))

    def remove_all(self) -> None:
        """Removes the folder with its files, if it is there; it has no folders within."""
        for name in self.files():
            with _reaching(self.address), suppress(FileNotFoundError):
                # one by one: fsspec's rm of a remote folder takes * and [ in its name as a pattern
                self._fs.rm_file(self._path(name))
        if self._local:
            with _reaching(self.address), suppress(FileNotFoundError):
                Path(self._root).rmdir()

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _list(self) -> dict[str, tuple[str, int]]:
        with _reaching(self.address):
            try:
                found = self._fs.ls(self._root, detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return {}
        names = ((entry["name"].rstrip("/").rpartition("/")[2], entry) for entry in found)
        return {name: (entry["type"], entry["size"] or 0) for name, entry in names}

    def _sync(self) -> None:
        """Makes names of files durable, as fsync of a file does for its bytes."""
        handle = os.open(self._root, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def _reaching(address: str) -> Iterator[None]:
    """Turns what a file system raises, each its own kinds, into one error.

    A missing file stays FileNotFoundError and a short one EOFError: what that means depends on who
    reads.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, EOFError, CheckpointError):
        raise
    except Exception as error:
        raise CheckpointError(
            f"{address}: cannot be read or written ({type(error).__name__}: {error}). Check the "
            "address, its permissions, free space and, for s3://, credentials and endpoint; then "
            "start the run again under its name."
        ) from error


def damaged(folder: Folder, name: str, what: str) -> DamagedCheckpointError:
    """The error of a file that is not what was written."""
    return DamagedCheckpointError(
        f"{folder}/{name}: {what}. The checkpoint is damaged; use an older one of {folder.parent}."
    )
