"""Progress of a pass over the log: a bar on a terminal, otherwise a line on stderr now and then."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

LINE_SECONDS = 5.0


class Progress:
    """Progress of one pass, with rate and time left. Use as a context."""

    def __init__(self, title: str, total: int, *, parts: bool = False) -> None:
        """`total`: bytes of the pass; with `parts`, its number of tasks."""
        self._title = title
        self._total = max(1, total)
        self._parts = parts
        self._rows = self._bytes = 0
        self._start = self._last = time.monotonic()
        self._bar = Bar(
            "{task.description}",
            BarColumn(),
            "{task.percentage:>3.0f}%",
            "{task.fields[rate]}",
            TimeRemainingColumn(elapsed_when_finished=True),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task(title, total=self._total, rate="")

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._bar.disable:
            self._line(f"{self._rate()}, {time.monotonic() - self._start:.1f} s")
        elif kind is None:
            self._bar.update(self._task, completed=self._total, rate=self._rate())
        if not self._bar.disable:
            self._bar.stop()

    def advance(self, rows: int, stored_bytes: int) -> None:
        """Adds rows, and the bytes that they take in the files as they are stored."""
        self._rows += rows
        self._bytes = min(self._total, self._bytes + stored_bytes)
        self._bar.update(self._task, completed=self._bytes, rate=self._rate())
        now = time.monotonic()
        if self._bar.disable and now - self._last >= LINE_SECONDS:
            self._last = now
            left = (now - self._start) * (self._total / max(1, self._bytes) - 1)
            share = 100 * self._bytes / self._total
            self._line(f"{share:.0f}%, {self._rate()}, {left:.0f} s left")

    def _line(self, text: str) -> None:
        sys.stderr.write(f"{self._title}: {text}\n")
        sys.stderr.flush()

    def _rate(self) -> str:
        seconds = max(1e-9, time.monotonic() - self._start)
        if self._parts:
            return f"{self._bytes:,} of {self._total:,} parts"
        return f"{self._rows:,} rows, {self._rows / seconds:,.0f} rows/s"
