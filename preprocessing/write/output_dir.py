"""The directory of a data set: whether it may be written, its files, and who writes it."""

from __future__ import annotations

import json
import os
import posixpath
import re
import socket
import threading
import time
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ctrdist.data.manifest import MANIFEST_NAME, SCHEMA_NAME, SPLITS, DataFile
from ctrdist.errors import DataError
from ctrdist.features.fitted import FEATURES_NAME
from ctrdist.storage import HashingFile, Store

MARKER = ".incomplete"
"""Lies in the directory while it is being written, and after a run that was cut off."""
SOURCE = ".source.json"
"""What the data set was made of: a run of the same has nothing to do."""
VOCABULARY, QUARANTINE, WORK = "vocabulary", "quarantine", "_work"
REPORT = "report"
_FINAL = re.compile(
    rf"({'|'.join(SPLITS)})/part-\d+\.parquet|{VOCABULARY}/[^/]+\.parquet|{SCHEMA_NAME}"
    rf"|{FEATURES_NAME}"
    rf"|{QUARANTINE}/part-\d+\.jsonl|{REPORT}\.(json|html)|{MANIFEST_NAME}"
)
_COMPRESSION = "zstd"
_BEAT_S, _DEAD_S = 10.0, 60.0
"""How often a run says that it is at work, and after how long without it counts as dead."""


class Output:
    """A data-set directory while it is written: local or s3://. Can be sent to any process."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self.store = Store(path)
        except OSError as error:
            raise DataError(
                f"--output {path}: {error}. Give a local path or one that starts with s3://."
            ) from error

    @property
    def work(self) -> str:
        """Where its work directory is, unless told otherwise."""
        return posixpath.join(self.path, WORK)

    def is_of(self, source: dict[str, Any]) -> bool:
        """Whether the finished data set there was made of this."""
        if not self.store.exists(MANIFEST_NAME):
            return False
        try:
            return bool(json.loads(self.store.get(SOURCE)) == source)
        except (FileNotFoundError, ValueError):
            return False

    def check(self, *, overwrite: bool) -> None:
        """Refuses a place that may not be written; changes nothing.

        Raises:
            DataError: a finished data set without `overwrite`, somebody else's files, or another
                run at work.
        """
        if self.store.kind() == "file":
            raise DataError(f"--output {self.path}: that is a file. Choose a directory.")
        files = [n for n in self.store.names() if not n.startswith(f"{WORK}/")]
        marked = self.store.exists(MARKER)
        if marked:
            self._check_owner()
        foreign = [name for name in files if not _FINAL.fullmatch(name)]
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
        if files and MANIFEST_NAME not in files and not marked:
            raise DataError(
                f"--output {self.path}: files without {MANIFEST_NAME} or {MARKER}, so not what a "
                f"run left ({', '.join(files[:3])}). Choose another directory, or empty it."
            )

    def claim(self) -> Claim:
        """Marks the directory as being written.

        Raises:
            DataError: it cannot be written.
        """
        try:
            return Claim(self.store)
        except OSError as error:
            raise DataError(f"--output {self.path}: cannot be written ({error}).") from error

    def clear(self) -> None:
        """Removes the data set, or what there is of one; the manifest first."""
        self.store.remove(MANIFEST_NAME)
        for name in self.store.names():
            if _FINAL.fullmatch(name):
                self.store.remove(name)

    def part(self, name: str, schema: pa.Schema, row_group_size: int) -> PartWriter:
        """A new Parquet file; may be called in any process."""
        return PartWriter(self.store, name, schema, row_group_size)

    def _check_owner(self) -> None:
        try:
            owner = json.loads(self.store.get(MARKER))
            host, pid = owner["host"], int(owner["pid"])
            beat = float(owner.get("time", 0.0))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return
        here = host == socket.gethostname()
        if here and not _alive(pid):
            return
        if not here and time.time() - beat > _DEAD_S:
            return
        wait = "" if here else f", or, if it was killed, {_DEAD_S:.0f} s after it"
        raise DataError(
            f"--output {self.path}: another run (process {pid} on {host}) is writing there. "
            f"Choose another directory, or wait until it is done{wait}."
        )


class Claim:
    """The mark of a run at work, renewed until it is given up."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._over = threading.Event()
        self._beat()
        self._thread = threading.Thread(target=self._keep, name="claim", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """The run is over; the mark stays."""
        self._over.set()
        self._thread.join()

    def give_up(self) -> None:
        """Takes the mark away."""
        self.stop()
        self._store.remove(MARKER)

    def _keep(self) -> None:
        while not self._over.wait(_BEAT_S):
            try:
                self._beat()
            except Exception:  # a store that is away for a moment; the next beat tries again
                continue

    def _beat(self) -> None:
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
        self._store.put(MARKER, json.dumps(owner).encode())


class PartWriter:
    """Writes a Parquet file with row groups of one size, but for the last, and hashes its bytes.

    Use as a context; the file is there once it ends well.
    """

    def __init__(self, store: Store, name: str, schema: pa.Schema, row_group_size: int) -> None:
        self._opening = store.write(name)
        self._schema = schema
        self._name = name
        self._size = row_group_size
        self._waiting: list[pa.Table] = []
        self._rows = 0
        self._groups: list[int] = []

    def write(self, table: pa.Table) -> None:
        """Appends rows."""
        self._waiting.append(table)
        self._rows += table.num_rows
        while self._rows >= self._size:
            rows = pa.concat_tables(self._waiting)
            self._group(rows.slice(0, self._size))
            self._waiting = [rows.slice(self._size)]
            self._rows -= self._size

    def __enter__(self) -> PartWriter:
        self._sink = HashingFile(self._opening.__enter__())
        self._writer = pq.ParquetWriter(self._sink, self._schema, compression=_COMPRESSION)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                if self._rows:
                    self._group(pa.concat_tables(self._waiting))
                self._writer.close()
        except BaseException as late:
            self._opening.__exit__(type(late), late, late.__traceback__)
            raise
        self._opening.__exit__(kind, error, trace)

    @property
    def file(self) -> DataFile:
        """What the manifest says of it; once it is closed."""
        return DataFile(
            path=self._name, row_groups=tuple(self._groups), sha256=self._sink.sha256.hexdigest()
        )

    def _group(self, rows: pa.Table) -> None:
        self._writer.write_table(rows.combine_chunks(), row_group_size=self._size)
        self._groups.append(rows.num_rows)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError, ValueError):
        return False
    except PermissionError:
        return True
    return pid > 0 and pid != os.getpid()
