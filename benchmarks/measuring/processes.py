"""Runs a command and tells what it and all processes under it took: time, memory, bytes written."""

import ctypes
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

import psutil

POLL_SECONDS = 0.1
PSS_SECONDS = 2.0
"""The kernel walks all pages to tell a process's proportional share, so that is asked seldom."""
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)
_MIB = 2**20


@dataclass
class Usage:
    """Time and memory that a command took; memory in MiB."""

    code: int = 0
    """Its exit code."""
    wall: float = 0.0
    """Seconds from its start to its end, interpreter and cluster included."""
    cpu: float = 0.0
    """Seconds of all processes, short of what each did after it was last seen."""
    peak_process: float = 0.0
    """Greatest resident set of any one process, shared memory included."""
    peak_process_name: str = ""
    peak_anonymous: float = 0.0
    """Greatest memory of any one process that is its own: neither mapped files, as the input that
    Polars maps, nor shared, as Ray's object store; sampled every 0.1 seconds."""
    peak_sum: float = 0.0
    """Greatest sum at one moment of all processes' proportional shares, sampled every 2 seconds."""
    written: float = 0.0
    """Handed to disks by all processes, also what was deleted since."""
    output: str = ""
    """The text that it printed to stdout."""
    errors: str = ""
    """The end of what it printed to stderr."""


@dataclass
class _Seen:
    """The last figures of one process."""

    name: str = ""
    cpu: float = 0.0
    written: float = 0.0
    peak: float = 0.0
    anonymous: float = 0.0


class _Tree:
    """All processes that come into being under this one."""

    def __init__(self) -> None:
        self._self = psutil.Process()
        self._before = {child.pid for child in self._self.children(recursive=True)}
        self._summed_at = 0.0
        self.seen: dict[tuple[int, float], _Seen] = {}
        self.peak_sum = 0.0

    def processes(self) -> list[psutil.Process]:
        there = self._self.children(recursive=True)
        return [process for process in there if process.pid not in self._before]

    def look(self) -> None:
        due = time.monotonic() - self._summed_at >= PSS_SECONDS
        shares = 0.0
        for process in self.processes():
            try:
                self._look_at(process)
                shares += _share(process.pid) if due else 0.0
            except (psutil.Error, OSError):
                continue  # it ended just now
        if due:
            self.peak_sum, self._summed_at = max(self.peak_sum, shares), time.monotonic()

    def _look_at(self, process: psutil.Process) -> None:
        one = self.seen.setdefault((process.pid, process.create_time()), _Seen())
        times = process.cpu_times()
        one.cpu = times.user + times.system
        status = f"/proc/{process.pid}/status"  # of one that has ended and is not yet waited for: 0
        one.peak = max(one.peak, _kilobytes(status, "VmHWM:") / 1024)
        one.anonymous = max(one.anonymous, _kilobytes(status, "RssAnon:") / 1024)
        one.written = max(one.written, process.io_counters().write_bytes / _MIB)
        one.name = process.name()

    def end(self) -> None:
        left = self.processes()
        for process in left:
            with suppress(psutil.Error):
                process.terminate()
        for process in psutil.wait_procs(left, timeout=10)[1]:
            with suppress(psutil.Error):
                process.kill()


def measured(command: Sequence[str], env: Mapping[str, str]) -> Usage:
    """Runs a command to its end; what it leaves running is ended."""
    # Orphans become children of this process instead of init's, so none is lost from the count.
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    tree = _Tree()
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        begun = time.perf_counter()
        process = subprocess.Popen(command, env=dict(env), stdout=output, stderr=errors)
        try:
            status = resources = None
            while status is None:
                time.sleep(POLL_SECONDS)
                tree.look()
                pid, code, spent = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    status, resources = os.waitstatus_to_exitcode(code), spent
            wall = time.perf_counter() - begun
            process.returncode = status
        finally:
            tree.end()
        texts = [_text(file) for file in (output, errors)]
    biggest = max(tree.seen.values(), key=lambda one: one.peak, default=_Seen())
    return Usage(
        code=status,
        wall=wall,
        # The kernel's figure has what came after the last look, but lacks who was not waited for.
        cpu=max(sum(s.cpu for s in tree.seen.values()), resources.ru_utime + resources.ru_stime),
        peak_process=biggest.peak,
        peak_process_name=biggest.name,
        peak_anonymous=max((one.anonymous for one in tree.seen.values()), default=0.0),
        peak_sum=max(tree.peak_sum, biggest.peak if len(tree.seen) <= 1 else 0.0),
        written=sum(s.written for s in tree.seen.values()),
        output=texts[0],
        errors=texts[1][-2000:],
    )


def _kilobytes(path: str, field: str) -> int:
    with open(path) as lines:
        return next((int(line.split()[1]) for line in lines if line.startswith(field)), 0)


def _share(pid: int) -> float:
    return _kilobytes(f"/proc/{pid}/smaps_rollup", "Pss:") / 1024


def _text(file: IO[str]) -> str:
    file.seek(0)
    return file.read()
