"""The directory of a data set that is written: its checks, its files, the lease of its writer."""

from __future__ import annotations

import json
import os
import posixpath
import re
import socket
import threading
import time
from typing import Any

import psutil

from ctrdist.data.counts import VOCABULARY
from ctrdist.data.manifest import MANIFEST_NAME, SCHEMA_NAME, SPLITS
from ctrdist.errors import DataError
from ctrdist.features.fitted import FEATURES_NAME
from ctrdist.storage import Store

MARKER = ".incomplete"
"""A file that lies in the directory while it is being written, and after an interrupted run."""
SOURCE = ".source.json"
"""A file with hashes of the settings and inputs that the data set was made of."""
QUARANTINE, REPORT, WORK = "quarantine", "report", "_work"
_OWN_FILES = re.compile(
    rf"({'|'.join(SPLITS)})/part-\d+\.parquet|{VOCABULARY}/[^/]+\.parquet|{SCHEMA_NAME}"
    rf"|{FEATURES_NAME}|{QUARANTINE}/part-\d+\.jsonl|{REPORT}\.(json|html)|{MANIFEST_NAME}"
)
_RENEWAL_S, _EXPIRY_S = 10.0, 60.0
"""Seconds between two renewals of a lease, and after which a lease that is not renewed expires."""


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
        """The work directory, where the settings name none."""
        return posixpath.join(self.path, WORK)

    def was_made_of(self, source: dict[str, Any]) -> bool:
        """Tells whether a finished data set is there, and was made of this source."""
        if not self.store.exists(MANIFEST_NAME):
            return False
        try:
            return bool(json.loads(self.store.get(SOURCE)) == source)
        except (FileNotFoundError, ValueError):
            return False

    def check(self, *, overwrite: bool) -> None:
        """Refuses a directory that may not be written; changes nothing.

        Raises:
            DataError: a finished data set without `overwrite`, files that no run wrote, or another
                run that is writing there.
        """
        if self.store.kind() == "file":
            raise DataError(f"--output {self.path}: that is a file. Choose a directory.")
        files = [n for n in self.store.names() if not n.startswith(f"{WORK}/")]
        marked = self.store.exists(MARKER)
        if marked:
            self._check_lease()
        foreign = [name for name in files if not _OWN_FILES.fullmatch(name)]
        if foreign:
            raise DataError(
                f"--output {self.path}: it holds other files ({', '.join(foreign[:3])}). "
                "Choose another directory, or an empty one."
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

    def lease(self) -> Lease:
        """Marks the directory as being written by this process.

        Raises:
            DataError: it cannot be written.
        """
        try:
            return Lease(self.store)
        except OSError as error:
            raise DataError(f"--output {self.path}: cannot be written ({error}).") from error

    def clear(self) -> None:
        """Removes the files of a data set, finished or not; the manifest first."""
        self.store.remove(MANIFEST_NAME)
        for name in self.store.names():
            if _OWN_FILES.fullmatch(name):
                self.store.remove(name)

    def _check_lease(self) -> None:
        """Raises a DataError where the lease is in force.

        It is in force until it expires, whether or not there is a process with its id: ids are
        used again. It ends sooner where its process was on this machine and is gone.
        """
        try:
            owner = json.loads(self.store.get(MARKER))
            host, pid = owner["host"], int(owner["pid"])
            renewed = float(owner.get("time", 0.0))
            alive = host != socket.gethostname() or (pid != os.getpid() and psutil.pid_exists(pid))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
            return  # no lease, or a damaged one
        if time.time() - renewed > _EXPIRY_S or not alive:
            return
        raise DataError(
            f"--output {self.path}: another run (process {pid} on {host}) is writing there. "
            "Choose another directory, or wait until it is done, or, if it was killed, for "
            f"{_EXPIRY_S:.0f} s."
        )


class Lease:
    """The right to write a directory, renewed by a thread until it is released."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._over = threading.Event()
        self._renew()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stops renewing the lease; the directory stays marked as incomplete."""
        self._over.set()
        self._thread.join()

    def release(self) -> None:
        """Stops renewing the lease, and removes the mark."""
        self.stop()
        self._store.remove(MARKER)

    def _keep(self) -> None:
        while not self._over.wait(_RENEWAL_S):
            try:
                self._renew()
            except OSError:  # the store does not answer; the next renewal tries again
                continue

    def _renew(self) -> None:
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
        self._store.put(MARKER, json.dumps(owner).encode())
