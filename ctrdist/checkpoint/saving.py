"""One checkpoint on its way to disk, in a thread of each rank.

The threads use no collective, as the training steps use those at the same time. A rank's index file
says that its part is written; rank 0's thread looks for the index of every rank, and only then
writes what makes the checkpoint one: the marker. Names of files hold a token of this save, so
nothing that an earlier try has left, or a process of it still writes, can be taken for a part.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from threading import Thread

import torch.distributed as dist

from ctrdist.checkpoint.folder import Folder
from ctrdist.checkpoint.storage import Writer, end, stem
from ctrdist.errors import CheckpointError

PATIENCE_SECONDS = 3600.0
"""How much later than rank 0 another rank may be done."""
_POLL_SECONDS = (0.02, 1.0)
"""First and longest pause between two looks."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A checkpoint that has become whole."""

    path: str
    step: int
    seconds: float
    """From the snapshot to the marker."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What rank 0 adds to the ranks' files."""

    step: int
    marker: str
    """Name of the marker."""
    facts: dict[str, object]
    """What the marker says beside the list of files."""
    texts: dict[str, bytes]
    """Small files by name."""


class Saving:
    """A save that has begun; its snapshot is taken."""

    def __init__(
        self,
        folder: Folder,
        token: str,
        writer: Writer,
        contents: Contents,
        then: Callable[[], None],
    ) -> None:
        """Starts the thread.

        Args:
            folder: of the checkpoint; it exists.
            token: of this save, the same on all ranks.
            writer: this rank's part.
            contents: what rank 0 adds.
            then: called on rank 0 in the thread, once the checkpoint is whole.
        """
        self._folder, self._token, self._writer = folder, token, writer
        self._contents, self._then = contents, then
        self._rank, self._size = dist.get_rank(), dist.get_world_size()
        self._error = ""
        self._begun, self._seconds = time.perf_counter(), 0.0
        # a daemon: an interpreter that is leaving does not wait for a rank that is gone
        self._thread = Thread(target=self._run, name="checkpoint-write", daemon=True)
        self._thread.start()

    def join(self, seconds: float | None = None) -> None:
        """Waits for this rank's thread, and asks nobody."""
        self._thread.join(seconds)

    def result(self) -> Saved:
        """Waits until the checkpoint is whole; every rank calls it.

        Raises:
            CheckpointError: some rank could not write its part; on all ranks the same.
        """
        self.join()
        errors = [self._error]
        if self._size > 1:
            errors = [""] * self._size
            dist.all_gather_object(errors, self._error)
        found = next((error for error in errors if error), "")
        if found:
            raise CheckpointError(
                f"checkpoint of step {self._contents.step}: {found} It is not whole and will not "
                "be used; older ones are not touched."
            )
        step = self._contents.step
        return Saved(path=self._folder.address, step=step, seconds=self._seconds)

    def _run(self) -> None:
        try:
            self._writer.write()
            if self._rank == 0:
                self._complete()
                self._then()
        except Exception as error:  # raised to nobody here: result() tells all ranks
            kind = "" if isinstance(error, CheckpointError) else f"{type(error).__name__}: "
            self._error = f"worker {self._rank}: {kind}{error}"
            self._tell_rank_0()
        self._seconds = time.perf_counter() - self._begun

    def _complete(self) -> None:
        names = [stem(rank, self._token) for rank in range(self._size)]
        sizes = self._wait_for_all(names)
        files = {}
        for name in names:
            index = self._folder.read(f"{name}.json")
            wanted = json.loads(index)["bytes"]
            if sizes.get(f"{name}.bin") != wanted:
                raise CheckpointError(
                    f"{self._folder}/{name}.bin has {sizes.get(f'{name}.bin', 0):,} bytes after "
                    f"{wanted:,} were written. All workers must see the same directory: check "
                    "checkpoint.directory and --runs."
                )
            files[f"{name}.bin"] = {"bytes": wanted}
            files[f"{name}.json"] = _facts(index)
        for name, text in self._contents.texts.items():
            self._folder.write(name, text)
            files[name] = _facts(text)
        end(self._folder)
        marker = json.dumps({**self._contents.facts, "files": files}, indent=1)
        self._folder.write(self._contents.marker, marker.encode())

    def _wait_for_all(self, names: list[str]) -> dict[str, int]:
        """Looks until each rank's index is there; gives the sizes of all files."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        pause, longest = _POLL_SECONDS
        while True:
            files = self._folder.files()
            for name in names:
                if f"{name}.failed" in files:
                    raise CheckpointError(self._folder.read(f"{name}.failed").decode())
            missing = [rank for rank, name in enumerate(names) if f"{name}.json" not in files]
            if not missing:
                return files
            if time.monotonic() > deadline:
                raise CheckpointError(
                    f"workers {missing[:8]} have not written their part to {self._folder} within "
                    f"{PATIENCE_SECONDS:,.0f} s. All workers must see the same directory: check "
                    "checkpoint.directory and --runs."
                )
            time.sleep(pause)
            pause = min(2 * pause, longest)

    def _tell_rank_0(self) -> None:
        # where nothing can be written, rank 0 cannot write either, or runs into its bound
        with suppress(CheckpointError, OSError):
            self._folder.write(f"{stem(self._rank, self._token)}.failed", self._error.encode())


def _facts(data: bytes) -> dict[str, int]:
    return {"bytes": len(data), "crc32": zlib.crc32(data)}
