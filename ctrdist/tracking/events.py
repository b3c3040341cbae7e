"""events.jsonl: all that a run records, one JSON object per line, only ever appended to."""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EVENTS_NAME = "events.jsonl"


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line."""

    time_ms: int
    """When it was recorded: milliseconds since 1970."""
    kind: str
    """start, params, tags, metrics, artifact, dataset or finish."""
    step: int | None
    """Of metrics."""
    values: dict[str, Any]
    """By kind: see :class:`ctrdist.tracking.tracker.RunTracker`."""
    start: int
    """Offset of the line's first byte."""
    end: int
    """Offset behind the line's last byte."""


class EventLog:
    """Appends events, from any thread. When `append` returns, the system has the line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered and appending: each event is one write, and outlives a killed process.
        self._file = path.open("ab", buffering=0)
        if not _ends_with_newline(path):
            self._file.write(b"\n")  # the line that a killed process left unfinished stands alone

    def append(self, kind: str, values: Mapping[str, Any], step: int | None = None) -> None:
        """Writes one event; what JSON has no numbers for becomes the strings nan, inf and -inf."""
        line = {"time": time.time_ns() // 1_000_000, "kind": kind, "step": step}
        text = json.dumps({**line, "values": _jsonable(values)}, ensure_ascii=False)
        with self._lock:
            self._file.write(text.encode() + b"\n")

    def close(self) -> None:
        """Closes the file; an event that comes later is an error."""
        with self._lock:
            self._file.close()


def read_events(path: Path, offset: int, max_bytes: int = 1 << 20) -> tuple[list[Event], int]:
    """Reads the complete lines from an offset on.

    Args:
        path: events.jsonl.
        offset: where a line starts.
        max_bytes: how much to read at once; a longer line is read whole.

    Returns:
        The events, without lines that are not JSON, and the offset behind the last complete line.
    """
    with path.open("rb") as file:
        file.seek(offset)
        block = file.read(max_bytes)
        if block and b"\n" not in block:
            block += file.readline()
    block = block[: block.rfind(b"\n") + 1]
    return list(_parse(block, offset)), offset + len(block)


def metric_history(path: Path, prefixes: tuple[str, ...]) -> dict[str, dict[int, float]]:
    """Metrics whose names begin with a prefix: name → step → value, over all starts of the run.

    Of a step that was taken again after a restart, the later value counts. Steps rise.
    """
    history: dict[str, dict[int, float]] = {}
    offset = 0
    while True:
        events, end = read_events(path, offset)
        if end == offset:
            return {name: dict(sorted(points.items())) for name, points in history.items()}
        for event in events:
            if event.kind == "metrics" and event.step is not None:
                for name, value in event.values.items():
                    if name.startswith(prefixes):
                        history.setdefault(name, {})[event.step] = float(value)
        offset = end


def _parse(block: bytes, offset: int) -> Iterator[Event]:
    for line in block.splitlines(keepends=True):
        start, offset = offset, offset + len(line)
        try:
            raw = json.loads(line)
            yield Event(
                time_ms=raw["time"],
                kind=raw["kind"],
                step=raw["step"],
                values=raw["values"],
                start=start,
                end=offset,
            )
        except (ValueError, KeyError, TypeError):
            continue  # left unfinished by a killed process


def _ends_with_newline(path: Path) -> bool:
    """Also true of an empty file."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_jsonable(item) for item in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    try:
        number = float(value)  # also scalars of numpy and torch
    except (TypeError, ValueError):
        return str(value)
    return number if math.isfinite(number) else str(number)
