"""Ends a worker that hangs, for example in a collective after another worker has vanished."""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from pathlib import Path

from ctrdist.training.observe.messages import Emit, Hang

EXIT_CODE = 70
STACKS = "stacks"
_GRACE_SECONDS = 5.0
"""Time for the other workers to write their stacks: a worker that ends breaks their collectives."""


class Watchdog:
    """A thread that ends the process if `beat` is not called for too long. Use as a context."""

    def __init__(
        self, timeout_s: float, run_dir: Path, rank: int, emit: Emit = lambda message: None
    ) -> None:
        """Starts nothing yet.

        The limit is the longest time between two beats; 0 switches the watchdog off. The stacks go
        to stacks/rank-<rank>.txt in the run's directory, and a Hang to `emit`, before the process
        ends.
        """
        self._timeout = timeout_s
        self._path = run_dir / STACKS / f"rank-{rank}.txt"
        self._rank, self._emit = rank, emit
        self._last = time.monotonic()
        self._over = threading.Event()

    def beat(self) -> None:
        """Records that this worker has made progress."""
        self._last = time.monotonic()

    def __enter__(self) -> Watchdog:
        self.beat()
        self._over.clear()
        if self._timeout > 0:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self._timeout / 10)):
            if time.monotonic() - self._last > self._timeout:
                self._end_process()

    def _end_process(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("w") as file:
                file.write(
                    f"{time.strftime('%Y-%m-%d %H:%M:%S')}: worker {self._rank}, process "
                    f"{os.getpid()}: nothing finished for {self._timeout:g} s\n\n"
                )
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
            stacks = str(self._path.parent)
            self._emit(Hang(rank=self._rank, seconds=self._timeout, stacks=stacks))
            time.sleep(_GRACE_SECONDS)
        finally:
            # not an exception: the thread that hangs would never raise it
            os._exit(EXIT_CODE)
