"""events.jsonl: everything that a run records, one JSON object per line, only ever appended to."""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from ctrdist.strict_json import to_text

EVENTS_NAME = "events.jsonl"

Kind = Literal["start", "params", "tags", "metrics", "artifact", "dataset", "finish"]
Status = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line."""

    time_ms: int
    """Time of recording, in milliseconds since 1970."""
    kind: str
    """A :data:`Kind`, or one of a later version."""
    step: int | None
    """Step of metrics."""
    values: dict[str, Any]
    """Params, tags and metrics by name; otherwise the fields of the record of that kind."""
    start: int
    """Offset of the line's first byte."""
    end: int
    """Offset of the byte after the line."""


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A file that the run keeps."""

    KIND: ClassVar[Kind] = "artifact"

    name: str
    """Name under which a tracking service shows it, with folders."""
    path: str
    """Path relative to the run's directory."""


@dataclass(frozen=True, kw_only=True)
class DatasetUse:
    """The data set that the run reads."""

    KIND: ClassVar[Kind] = "dataset"

    name: str
    path: str
    """Directory of the data set, local or s3://."""
    fingerprint: str
    """Fingerprint of its manifest."""
    rows: Mapping[str, int]
    """Split → number of rows."""
    profile: Mapping[str, Any] = field(default_factory=dict)
    """Further figures, ready for JSON. The events of older runs have none."""


@dataclass(frozen=True, kw_only=True)
class Finish:
    """The end of the run."""

    KIND: ClassVar[Kind] = "finish"

    status: Status
    summary: Mapping[str, Any] = field(default_factory=dict)
    """Nested results."""


class EventLog:
    """Appends events, from any thread. When `append` returns, the operating system has the line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered and appending: each event is one write, and outlives a killed process.
        self._file = path.open("ab", buffering=0)
        if path.read_bytes()[-1:] not in (b"", b"\n"):
            self._file.write(b"\n")  # Closes a line that a killed process left unfinished.

    def append(self, kind: Kind, values: Mapping[str, Any], step: int | None = None) -> None:
        """Writes one event. Numbers that JSON lacks become the strings nan, inf and -inf."""
        line = {"time": time.time_ns() // 1_000_000, "kind": kind, "step": step}
        text = to_text({**line, "values": values}, non_finite=str, ensure_ascii=False)
        with self._lock:
            self._file.write(text.encode() + b"\n")

    def record(self, record: Artifact | DatasetUse | Finish) -> None:
        """Writes one record as an event."""
        self.append(record.KIND, vars(record))

    def close(self) -> None:
        """Closes the file. An event that comes later is an error."""
        with self._lock:
            self._file.close()


def read_events(path: Path, offset: int, max_bytes: int = 1 << 20) -> tuple[list[Event], int]:
    """Reads the complete lines from an offset on, at least one and about max_bytes.

    Returns:
        The events, without lines that are not JSON, and the offset after the last complete line.
    """
    with path.open("rb") as file:
        file.seek(offset)
        block = file.read(max_bytes)
        if block and b"\n" not in block:
            block += file.readline()
    events = []
    for line in block[: block.rfind(b"\n") + 1].splitlines(keepends=True):
        start, offset = offset, offset + len(line)
        with suppress(ValueError, KeyError, TypeError):  # A killed process left it unfinished.
            raw = json.loads(line)
            facts = {key: raw[key] for key in ("kind", "step", "values")}
            events.append(Event(time_ms=raw["time"], start=start, end=offset, **facts))
    return events, offset


def all_events(path: Path) -> Iterator[Event]:
    """All events so far, in order."""
    offset = 0
    while True:
        events, end = read_events(path, offset)
        if end == offset:
            return
        yield from events
        offset = end


def metric_history(path: Path, prefixes: tuple[str, ...]) -> dict[str, dict[int, float]]:
    """Metrics whose names begin with a prefix: name → step → value, over all starts of the run.

    If a step was taken again after a restart, the later value counts. Steps rise.
    """
    history: dict[str, dict[int, float]] = {}
    for event in all_events(path):
        if event.kind == "metrics" and event.step is not None:
            for name, value in event.values.items():
                if name.startswith(prefixes):
                    history.setdefault(name, {})[event.step] = float(value)
    return {name: dict(sorted(points.items())) for name, points in history.items()}
