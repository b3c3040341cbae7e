"""The directory of a data set: whether it may be written, its files, and cleaning up a failure."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import posixpath
import re
import socket
from types import TracebackType
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from ctrdist.data.manifest import MANIFEST_NAME, SCHEMA_NAME, SPLITS, DataFile
from ctrdist.errors import DataError

MARKER = ".incomplete"
"""Lies in the directory while it is being written, and after a run that was killed."""
VOCABULARY = "vocabulary"
_OURS = re.compile(
    rf"({'|'.join(SPLITS)})/part-\d+\.parquet|{VOCABULARY}/[^/]+\.parquet|{SCHEMA_NAME}|{MANIFEST_NAME}"
)
_COMPRESSION = "zstd"

logger = logging.getLogger(__name__)


class Output:
    """A data-set directory while it is written: local or s3://."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._fs, root = fsspec.core.url_to_fs(path)
        except (ValueError, ImportError) as error:
            raise DataError(
                f"--output {path}: {error}. Give a local path or one that starts with s3://."
            ) from error
        self._root = root.rstrip("/")
        self._made = False
        self._began = False

    def check(self, *, overwrite: bool) -> None:
        """Refuses a place that may not be written; changes nothing.

        Raises:
            DataError: a finished data set without `overwrite`, somebody else's files, or another
                run at work.
        """
        files = self._files()
        if MARKER in files:
            self._check_owner()
        foreign = [name for name in files if not _OURS.fullmatch(name) and name != MARKER]
        if foreign:
            raise DataError(
                f"--output {self.path}: it holds something else ({', '.join(foreign[:3])}). "
                "Choose another, or an empty one."
            )
        if MANIFEST_NAME in files and not overwrite:
            raise DataError(
                f"--output {self.path}: a finished data set is there. Choose another directory, "
                "or give --overwrite true to replace it."
            )
        if files and MANIFEST_NAME not in files and MARKER not in files:
            raise DataError(
                f"--output {self.path}: files without {MANIFEST_NAME} or {MARKER}, so not what a "
                f"run left ({', '.join(files[:3])}). Choose another directory, or empty it."
            )

    def begin(self) -> None:
        """Marks the directory as being written, and removes the data set or remains in it.

        Raises:
            DataError: it cannot be written.
        """
        self._made = not self._fs.exists(self._root)
        try:
            self._fs.makedirs(self._root, exist_ok=True)
            owner = {"host": socket.gethostname(), "pid": os.getpid()}
            self._fs.pipe_file(self._at(MARKER), json.dumps(owner).encode())
        except Exception as error:  # each store has its own classes
            raise DataError(f"--output {self.path}: cannot be written ({error}).") from error
        self._began = True
        self._remove([MANIFEST_NAME])  # first: from here on it is no finished data set
        self._remove([name for name in self._files() if _OURS.fullmatch(name)])

    def abandon(self) -> None:
        """Removes what this run wrote, and the directory where this run made it."""
        if not self._began:
            return
        self._remove([name for name in self._files() if _OURS.fullmatch(name)])
        self._remove([MARKER])
        for folder in (*SPLITS, VOCABULARY):
            self._remove_folder(self._at(folder))
        if self._made:
            self._remove_folder(self._root)

    def finish(self, manifest: str) -> None:
        """Writes the manifest, the last file, and takes the mark away."""
        self.write_text(MANIFEST_NAME, manifest)
        self._remove([MARKER])
        self._began = False

    def write_text(self, name: str, text: str) -> None:
        """Writes a small file."""
        self._fs.pipe_file(self._at(name), text.encode())

    def write_table(self, name: str, table: pa.Table) -> str:
        """Writes a Parquet file at once; returns its sha256."""
        with self.part(name, table.schema, max(1, table.num_rows)) as part:
            part.write(table)
        return part.file.sha256

    def part(self, name: str, schema: pa.Schema, row_group_size: int) -> PartWriter:
        """A new Parquet file; may be called in any process."""
        path = self._at(name)
        self._fs.makedirs(posixpath.dirname(path), exist_ok=True)
        return PartWriter(self._fs.open(path, "wb"), name, schema, row_group_size)

    def _check_owner(self) -> None:
        try:
            owner = json.loads(self._fs.cat_file(self._at(MARKER)))
        except (OSError, ValueError):
            return
        if owner.get("host") == socket.gethostname() and _alive(int(owner.get("pid", 0))):
            raise DataError(
                f"--output {self.path}: another run (process {owner['pid']}) is writing there. "
                "Choose another directory, or wait until it is done."
            )

    def _files(self) -> list[str]:
        """All files in the directory, relative to it."""
        self._fs.invalidate_cache()
        if not self._fs.exists(self._root):
            return []
        if not self._fs.isdir(self._root):
            raise DataError(f"--output {self.path}: that is a file. Choose a directory.")
        found = self._fs.find(self._root)
        return sorted(posixpath.relpath(name, self._root) for name in found)

    def _at(self, name: str) -> str:
        return posixpath.join(self._root, name)

    def _remove(self, names: list[str]) -> None:
        for name in names:
            try:
                self._fs.rm_file(self._at(name))
            except FileNotFoundError:
                continue
            except OSError as error:
                logger.warning("%s could not be removed: %s", self._at(name), error)

    def _remove_folder(self, path: str) -> None:
        try:
            if self._fs.isdir(path) and not self._fs.ls(path):
                self._fs.rmdir(path)
        except OSError as error:
            logger.warning("%s could not be removed: %s", path, error)


class PartWriter:
    """Writes a Parquet file with row groups of one size, but for the last, and hashes its bytes."""

    def __init__(self, file: Any, name: str, schema: pa.Schema, row_group_size: int) -> None:
        self._sink = _HashingFile(file)
        self._writer = pq.ParquetWriter(self._sink, schema, compression=_COMPRESSION)
        self._name = name
        self._size = row_group_size
        self._waiting: list[pa.Table] = []
        self._groups: list[int] = []
        self.positives = 0
        """Rows with label 1 so far."""

    def write(self, table: pa.Table) -> None:
        """Appends rows."""
        self._waiting.append(table)
        while sum(t.num_rows for t in self._waiting) >= self._size:
            rows = pa.concat_tables(self._waiting)
            self._group(rows.slice(0, self._size))
            self._waiting = [rows.slice(self._size)]

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        rest = pa.concat_tables(self._waiting) if self._waiting else None
        if kind is None and rest is not None and rest.num_rows:
            self._group(rest)
        self._writer.close()
        self._sink.close()

    @property
    def file(self) -> DataFile:
        """What the manifest says of it; once it is closed."""
        return DataFile(
            path=self._name, row_groups=tuple(self._groups), sha256=self._sink.sha256.hexdigest()
        )

    def _group(self, rows: pa.Table) -> None:
        self._writer.write_table(rows.combine_chunks(), row_group_size=self._size)
        self._groups.append(rows.num_rows)


class _HashingFile(io.RawIOBase):
    """Passes what is written on, and hashes it."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._position = 0
        self.sha256 = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self.sha256.update(view)
        self._file.write(view)
        self._position += view.nbytes
        return view.nbytes

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError, ValueError):
        return False
    except PermissionError:
        return True
    return pid > 0 and pid != os.getpid()
