"""Writes one checkpoint in a thread of each rank, while training continues.

The threads use no collectives, because the training steps use them at the same time. A rank's index
file tells that its part is written. Rank 0's thread waits for the index of every rank, and only
then writes the marker, which makes the checkpoint whole. An error is raised between the steps, by
the next save or at the end of the run. The names of files contain a token of this save, so that no
file of an earlier attempt, or of a process of it that still writes, is taken for a part.
"""

import json
import math
import time
import zlib
from collections.abc import Callable
from threading import Event, Thread
from typing import Any

import torch.distributed as dist

from ctrdist.checkpoint.writer import BEGUN, Writer, stem
from ctrdist.errors import CheckpointError

MARKER = "complete.json"
_SHARED = "All workers must see the same directory: check checkpoint.directory and --runs."
_PATIENCE_SECONDS = 120.0
"""Time until a file that another rank has written must be visible."""
_POLL_SECONDS = (0.02, 1.0)
"""First and longest pause between two listings."""


class Saving:
    """A save in progress, after its snapshot."""

    def __init__(
        self,
        writer: Writer,
        facts: dict[str, Any],
        texts: dict[str, bytes],
        then: Callable[[], None],
    ) -> None:
        """Starts the thread, which writes this rank's part.

        Args:
            writer: has its snapshot.
            facts: the marker without the list of files; rank 0 writes it.
            texts: name → small file; rank 0 writes them.
            then: called in rank 0's thread once the checkpoint is whole.
        """
        self._writer, self._folder = writer, writer.folder
        self._facts, self._texts, self._then = facts, texts, then
        self._rank, self._size = dist.get_rank(), dist.get_world_size()
        self._error = ""
        self._written, self._all_written, self._abort = Event(), Event(), Event()
        # A daemon, so that an interpreter does not wait at its exit for a rank that is gone.
        self._thread = Thread(target=self._run, name="checkpoint-write", daemon=True)
        self._thread.start()

    def join(self, seconds: float | None = None) -> None:
        """Waits for this rank's thread, without communication."""
        self._thread.join(seconds)

    def result(self) -> str:
        """Waits until the checkpoint is whole; its directory. Every rank calls it.

        Raises:
            CheckpointError: a rank could not write its part; the same error on all ranks.
        """
        self._written.wait()
        error = _first(self._error)
        (self._abort if error else self._all_written).set()
        self.join()
        error = error or _first(self._error)
        if error:
            raise CheckpointError(
                f"checkpoint of step {self._facts['step']}: {error} It is not whole and will not "
                "be used; older ones are not touched."
            )
        return self._folder.url

    def _run(self) -> None:
        try:
            try:
                self._writer.write()
            finally:
                self._written.set()
            if self._rank == 0:
                self._complete()
                self._then()
        except Exception as error:  # result() raises it on all ranks.
            kind = "" if isinstance(error, CheckpointError) else f"{type(error).__name__}: "
            self._error = f"worker {self._rank}: {kind}{error}"

    def _complete(self) -> None:
        names = [stem(rank, self._writer.token) for rank in range(self._size)]
        sizes = self._wait_for_all(names)
        files = {}
        for name in names:
            index = self._folder.get(f"{name}.json")
            size, wanted = sizes.get(f"{name}.bin", 0), json.loads(index)["bytes"]
            if size != wanted:
                raise CheckpointError(
                    f"{self._folder}/{name}.bin has {size:,} bytes after {wanted:,} were written. "
                    f"{_SHARED}"
                )
            files[f"{name}.bin"] = {"bytes": wanted}
            files[f"{name}.json"] = _facts(index)
        for name, text in self._texts.items():
            self._folder.put(name, text)
            files[name] = _facts(text)
        self._folder.remove(BEGUN)
        marker = json.dumps({**self._facts, "files": files}, indent=1)
        self._folder.put(MARKER, marker.encode())

    def _wait_for_all(self, names: list[str]) -> dict[str, int]:
        """Waits until each rank's index is there; returns the sizes of all files."""
        pause, longest = _POLL_SECONDS
        deadline = math.inf  # A slow rank may take any time; if a rank is gone, others notice it.
        while True:
            files = self._folder.files()
            missing = [rank for rank, name in enumerate(names) if f"{name}.json" not in files]
            if not missing:
                return files
            if time.monotonic() > deadline:
                raise CheckpointError(
                    f"files that workers {missing[:8]} have written to {self._folder} are not "
                    f"visible there after {_PATIENCE_SECONDS:.0f} s. {_SHARED}"
                )
            if self._abort.wait(pause):
                raise CheckpointError("another worker has failed.")
            if self._all_written.is_set() and deadline == math.inf:
                deadline = time.monotonic() + _PATIENCE_SECONDS
            pause = min(2 * pause, longest)


def _first(error: str) -> str:
    """The error of the first rank that has one, otherwise empty. Collective."""
    errors = [error] * dist.get_world_size()
    if len(errors) > 1:
        dist.all_gather_object(errors, error)
    return next((found for found in errors if found), "")


def _facts(data: bytes) -> dict[str, int]:
    return {"bytes": len(data), "crc32": zlib.crc32(data)}
