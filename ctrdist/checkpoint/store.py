"""The checkpoints of a run: directories step-<n>, each whole once its marker is written, last.

A checkpoint names the model, the data and the plan it was made with, so it can be evaluated on its
own, and it loads into any number of workers and any plan.
"""

from __future__ import annotations

import json
import logging
import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from ctrdist.checkpoint.folder import Folder, damaged
from ctrdist.checkpoint.reader import Reader, checked
from ctrdist.checkpoint.retention import Entry, superfluous
from ctrdist.checkpoint.saving import Contents, Saved, Saving
from ctrdist.checkpoint.writer import METADATA, HostBuffer, Writer, begin
from ctrdist.config.experiment import CheckpointConfig
from ctrdist.distributed.process_group import run_on_main
from ctrdist.errors import CheckpointError, DamagedCheckpointError

MARKER = "complete.json"
_STATE, _CONFIG, _SCHEMA, _PLAN = "state.json", "config.yaml", "schema.json", "plan.json"
_PREFIX = "step-"
VERSION = 2

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Texts:
    """What a checkpoint holds beside tensors and state."""

    config: str
    """The resolved config, YAML."""
    schema: str
    """schema.json of the data."""
    plan: str
    """The sharding plan, JSON."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A whole checkpoint."""

    path: str
    """Its directory: local or s3://."""
    step: int
    state: dict[str, Any]
    """State of loader, schedule and progress."""
    texts: Texts


class CheckpointStore:
    """Writes the checkpoints of one run."""

    def __init__(self, directory: str | Path, config: CheckpointConfig) -> None:
        """Opens a directory of checkpoints; makes nothing.

        Args:
            directory: holds step-<n> directories, local or s3://; all workers must see it.
            config: what to keep, and whether steps wait for a save.
        """
        self.directory = str(directory).rstrip("/")
        self._config = config
        self._buffer = HostBuffer() if config.asynchronous else None
        self._saving: Saving | None = None

    def save(
        self,
        step: int,
        tensors: dict[str, Any],
        state: dict[str, Any],
        texts: Texts,
        *,
        value: float | None = None,
        best_step: int | None = None,
    ) -> str:
        """Begins to write a checkpoint; every rank calls it.

        Returns once the tensors may change again; :meth:`wait` says when it is whole. Waits for the
        save before, if that is still being written.

        Args:
            step: its number.
            tensors: nested dict of tensors, this rank's part of the sharded ones.
            state: JSON-ready, the same on all ranks.
            texts: config, schema and plan.
            value: of the monitor, larger being better, where this step was evaluated.
            best_step: the best checkpoint so far; stays as long as this one does.

        Returns:
            Its directory.

        Raises:
            CheckpointError: of this save, or of the one before.
        """
        self.wait()
        folder = Folder(self.path_of(step))
        token = run_on_main(lambda: _begin(folder))
        writer = Writer(folder, token, dist.get_rank(), self._buffer)
        _collectively(lambda: dcp.save(tensors, storage_writer=writer))
        contents = Contents(
            step=step,
            marker=MARKER,
            facts={
                "version": VERSION,
                "step": step,
                "value": None if value is None or math.isnan(value) else value,
                "best_step": best_step,
            },
            texts={
                METADATA: writer.metadata,
                _STATE: json.dumps({"version": VERSION, **state}, indent=1).encode(),
                _CONFIG: texts.config.encode(),
                _SCHEMA: texts.schema.encode(),
                _PLAN: texts.plan.encode(),
            },
        )
        self._saving = Saving(
            folder, token, writer, contents, lambda: self._remove_superfluous(step)
        )
        if not self._config.asynchronous:
            self._saving.join()
        return folder.url

    def wait(self) -> Saved | None:
        """Waits until the last save is whole; every rank calls it.

        Returns:
            What was saved; None where nothing was on its way.

        Raises:
            CheckpointError: it could not be written.
        """
        saving, self._saving = self._saving, None
        return None if saving is None else saving.result()

    def leave(self, seconds: float) -> None:
        """Gives a save so long to end before the process does; asks no other rank."""
        if self._saving is not None:
            self._saving.join(seconds)

    def path_of(self, step: int) -> str:
        """Directory of the checkpoint of that step."""
        return f"{self.directory}/{_PREFIX}{step:09d}"

    def remove_leftovers(self) -> None:
        """Removes what saves that were cut off have left; only while nobody saves."""
        folder = Folder(self.directory)
        for name in folder.folders():
            if name.startswith(_PREFIX) and not folder.child(name).exists(MARKER):
                _log.info("%s/%s was never finished; removing it", folder, name)
                folder.child(name).remove()

    def _remove_superfluous(self, step: int) -> None:
        try:
            entries = [_entry(path) for path in complete(self.directory)]
            for old in superfluous(entries, step, self._config):
                _remove(Folder(self.path_of(old)))
        except CheckpointError as error:  # the new one is whole; training need not stop for this
            _log.warning("old checkpoints were not removed: %s", error)


def checkpoint_directory(run_dir: str | Path, run_name: str, config: CheckpointConfig) -> str:
    """Where a run's checkpoints lie."""
    if config.directory:
        return f"{config.directory.rstrip('/')}/{run_name}"
    return f"{run_dir}/checkpoints"


def complete(directory: str | Path) -> list[str]:
    """Whole checkpoints of a directory, oldest first."""
    folder = Folder(directory)
    names = [name for name in folder.folders() if name.startswith(_PREFIX)]
    whole = [f"{folder}/{name}" for name in names if folder.child(name).exists(MARKER)]
    return sorted(whole, key=_step_of)


def latest(directory: str | Path) -> str | None:
    """The newest whole checkpoint of a directory."""
    found = complete(directory)
    return found[-1] if found else None


def read(path: str | Path) -> Opened:
    """Opens a checkpoint and checks all but its tensors, which are checked when they are loaded.

    Args:
        path: a step-<n> directory, a run's directory (its best checkpoint, else its newest), or its
            checkpoints directory; local or s3://.

    Raises:
        CheckpointError: there is none.
        DamagedCheckpointError: a file is missing or altered.
    """
    folder = Folder(_resolve(str(path).rstrip("/")))
    files = _files(folder)
    texts = {name: checked(folder, name, files[name]) for name in (_STATE, _CONFIG, _SCHEMA, _PLAN)}
    state = json.loads(texts[_STATE])
    del state["version"]
    return Opened(
        path=folder.url,
        step=_step_of(folder.url),
        state=state,
        texts=Texts(
            config=texts[_CONFIG].decode(),
            schema=texts[_SCHEMA].decode(),
            plan=texts[_PLAN].decode(),
        ),
    )


def load_tensors(path: str | Path, tensors: dict[str, Any]) -> None:
    """Loads a checkpoint into existing tensors, resharding as needed; every rank calls it.

    Raises:
        DamagedCheckpointError: a file is missing or altered; the tensors hold anything.
        CheckpointError: a tensor is missing there or has another shape.
    """
    folder = Folder(path)

    def catalogue() -> tuple[dict[str, Any], bytes]:
        files = _files(folder)
        return files, checked(folder, METADATA, files[METADATA])

    files, metadata = run_on_main(catalogue)
    reader = Reader(folder, metadata, lambda name: checked(folder, name, files[name]))
    try:
        _collectively(lambda: dcp.load(tensors, storage_reader=reader))
    except CheckpointException as error:
        reason = next(
            (line.strip() for line in reversed(str(error).splitlines()) if line.strip()),
            type(error).__name__,
        )
        raise CheckpointError(
            f"{path}: does not fit this model ({reason[:300]}). A checkpoint loads into the model, "
            "tables' optimiser and data that it was made with; use its config.yaml, or another "
            "--run-name to begin anew."
        ) from error


def _collectively(function: Callable[[], object]) -> None:
    """Calls what torch does on all ranks; our own error of any rank is raised on each of them."""
    try:
        function()
    except CheckpointException as error:  # a BaseException
        causes = [cause for cause, _ in error.failures.values()]
        for kind in (DamagedCheckpointError, CheckpointError):
            for cause in causes:
                if isinstance(cause, kind):
                    raise kind(str(cause)) from None
        raise


def _files(folder: Folder) -> dict[str, dict[str, int]]:
    """The marker's list of files; all of them are there in full length."""
    marker = _marker(folder)
    there = folder.files()
    for name, facts in marker["files"].items():
        if there.get(name) != facts["bytes"]:
            size = f"{there[name]:,} bytes" if name in there else "missing"
            raise damaged(folder, name, f"{size}, the marker says {facts['bytes']:,} bytes")
    return marker["files"]


def _marker(folder: Folder) -> dict[str, Any]:
    try:
        marker = json.loads(folder.get(MARKER))
        version, _ = marker["version"], marker["files"]
    except FileNotFoundError as error:
        raise damaged(folder, MARKER, "missing") from error
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(folder, MARKER, "not the JSON that was written") from error
    if version != VERSION:
        raise CheckpointError(
            f"{folder}: written by another version of ctrdist (format {version}); this one reads "
            f"format {VERSION}. Use that version, or another --run-name to begin anew."
        )
    return marker


def _entry(path: str) -> Entry:
    try:
        marker = _marker(Folder(path))
    except CheckpointError:  # damaged: counts as a checkpoint without a value
        return Entry(step=_step_of(path))
    return Entry(step=_step_of(path), value=marker["value"], best_step=marker["best_step"])


def _resolve(path: str) -> str:
    folder = Folder(path)
    if folder.exists(MARKER):
        return path
    for directory in (f"{path}/checkpoints", path):
        found = complete(directory)
        if found:
            best = _entry(found[-1]).best_step
            wanted = None if best is None else f"{directory}/{_PREFIX}{best:09d}"
            return wanted if wanted in found else found[-1]
    there = folder.files() or folder.folders()
    what = (
        f"has no whole checkpoint ({MARKER} is written last)"
        if there
        else "has no whole checkpoint; nothing is there"
    )
    raise CheckpointError(
        f"{path}: {what}. Give --checkpoint a run's directory (runs/NAME) or one of its "
        f"checkpoints/{_PREFIX}… directories."
    )


def _step_of(path: str) -> int:
    return int(path.rpartition("/")[2].removeprefix(_PREFIX))


def _begin(folder: Folder) -> str:
    """Begins a save in an empty folder; gives its token."""
    token = secrets.token_hex(4)
    _remove(folder)
    begin(folder, token)
    return token


def _remove(folder: Folder) -> None:
    folder.remove(MARKER)  # first, so that a kill here leaves no whole-looking ruin
    folder.remove()
