"""The checkpoints of a run: directories step-<n>. A marker, written last, makes each one whole.

A checkpoint holds the config, the data's schema and the sharding plan, so it can be evaluated on
its own. It loads into any number of workers and any plan.
"""

import json
import logging
import math
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from ctrdist.checkpoint.folder import Folder
from ctrdist.checkpoint.reader import Reader
from ctrdist.checkpoint.saving import MARKER, Saving
from ctrdist.checkpoint.writer import BEGUN, METADATA, HostBuffer, Writer
from ctrdist.config.experiment import CheckpointConfig
from ctrdist.distributed.process_group import run_on_main
from ctrdist.errors import CheckpointError, DamagedCheckpointError
from ctrdist.strict_json import to_text

_STATE = "state.json"
_TEXTS = {"config": "config.yaml", "schema": "schema.json", "plan": "plan.json"}
"""Field of :class:`Texts` → name of its file."""
_PREFIX = "step-"
VERSION = 2

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Texts:
    """The texts of a checkpoint."""

    config: str
    """The resolved config, as YAML."""
    schema: str
    """schema.json of the data."""
    plan: str
    """The sharding plan, as JSON."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A whole checkpoint."""

    path: str
    """Its directory, local or s3://."""
    step: int
    state: dict[str, Any]
    """State of loader, schedule and progress."""
    texts: Texts


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The facts about a whole checkpoint that retention uses."""

    step: int
    value: float | None = None
    """Value of the monitored metric, larger being better; None without an evaluation."""
    best_step: int | None = None
    """The best checkpoint at that time. A run that resumes here may end with that one."""


class CheckpointStore:
    """Writes the checkpoints of one run."""

    def __init__(self, directory: str | Path, config: CheckpointConfig) -> None:
        """Makes nothing. The directory, local or s3://, is one that all workers see."""
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
        """Begins to write a checkpoint, and returns its directory. Every rank calls it.

        Returns as soon as the tensors may change again. :meth:`wait` waits until the checkpoint is
        whole. If the previous save is still being written, this one waits for it first.

        Args:
            step: number of the training step.
            tensors: nested dict of tensors; of a sharded one, this rank's part.
            state: JSON-ready, the same on all ranks.
            texts: config, schema and plan.
            value: value of the monitored metric, larger being better, if this step was evaluated.
            best_step: the best checkpoint so far, which is kept as long as this one.

        Raises:
            CheckpointError: this save or the previous one failed.
        """
        self.wait()
        folder = Folder(self.path_of(step))
        token = run_on_main(lambda: _begin(folder))
        writer = Writer(folder, token, dist.get_rank(), self._buffer)
        _collectively(lambda: dcp.save(tensors, storage_writer=writer))
        facts = {
            "version": VERSION,
            "step": step,
            "value": value if value is not None and math.isfinite(value) else None,
            "best_step": best_step,
        }
        files = {
            METADATA: writer.metadata,
            _STATE: to_text({"version": VERSION, **state}, indent=1).encode(),
            **{name: getattr(texts, field).encode() for field, name in _TEXTS.items()},
        }
        self._saving = Saving(writer, facts, files, lambda: self._remove_superfluous(step))
        if not self._config.asynchronous:
            self._saving.join()
        return folder.url

    def wait(self) -> str | None:
        """Waits until the last save is whole; its directory, or None if there was none.

        Every rank calls it.

        Raises:
            CheckpointError: it could not be written.
        """
        saving, self._saving = self._saving, None
        return None if saving is None else saving.result()

    def leave(self, seconds: float) -> None:
        """Waits so long for a save in progress before the process ends, without communication."""
        if self._saving is not None:
            self._saving.join(seconds)

    def path_of(self, step: int) -> str:
        """Directory of the checkpoint of that step."""
        return f"{self.directory}/{_PREFIX}{step:09d}"

    def remove_leftovers(self) -> None:
        """Removes the files of saves that were interrupted. No save may be in progress."""
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
        except CheckpointError as error:  # The new checkpoint is whole, so training continues.
            _log.warning("old checkpoints were not removed: %s", error)


def superfluous(entries: Collection[Entry], current: int, config: CheckpointConfig) -> list[int]:
    """Steps of the checkpoints to remove, oldest first, after the current step's was written.

    Kept are the newest `keep`, the best `keep_best`, each multiple of `keep_every`, and those that
    any of these names as its best. A checkpoint newer than the current one is removed: a run
    resumes from an older one only if the newer one is damaged.
    """
    known = {entry.step: entry for entry in entries if entry.step <= current}
    steps = sorted(known)
    stay = {current, *steps[-max(1, config.keep) :]}
    ranked = sorted(
        (-entry.value, entry.step)
        for entry in known.values()
        if entry.value is not None and math.isfinite(entry.value)
    )
    stay.update(step for _, step in ranked[: config.keep_best])
    if config.keep_every > 0:
        stay.update(step for step in steps if step % config.keep_every == 0)
    named = {known[step].best_step for step in stay if step in known}
    return sorted(entry.step for entry in entries if entry.step not in stay | named)


def checkpoint_directory(run_dir: str | Path, run_name: str, config: CheckpointConfig) -> str:
    """The directory of a run's checkpoints."""
    if config.directory:
        return f"{config.directory.rstrip('/')}/{run_name}"
    return f"{run_dir}/checkpoints"


def complete(directory: str | Path) -> list[str]:
    """Whole checkpoints of a directory, oldest first."""
    folder = Folder(directory)
    names = [name for name in folder.folders() if name.startswith(_PREFIX)]
    whole = [f"{folder}/{name}" for name in names if folder.child(name).exists(MARKER)]
    return sorted(whole, key=_step_of)


def read(path: str | Path) -> Opened:
    """Opens a checkpoint. Checks all but its tensors, which are checked when they are loaded.

    The path, local or s3://, is a step-<n> directory, a run's directory (its best checkpoint, else
    its newest), or its checkpoints directory.

    Raises:
        CheckpointError: there is none.
        DamagedCheckpointError: a file is missing or altered.
    """
    folder = Folder(_resolve(str(path).rstrip("/")))
    files = _files(folder)
    state = json.loads(folder.get_checked(_STATE, files[_STATE]))
    del state["version"]
    texts = {
        field: folder.get_checked(name, files[name]).decode() for field, name in _TEXTS.items()
    }
    step = _step_of(folder.url)
    return Opened(path=folder.url, step=step, state=state, texts=Texts(**texts))


def load_tensors(path: str | Path, tensors: dict[str, Any]) -> None:
    """Loads a checkpoint into existing tensors, and reshards them. Every rank calls it.

    Raises:
        DamagedCheckpointError: a file is missing or altered. The tensors are undefined then.
        CheckpointError: a tensor is missing there or has another shape.
    """
    folder = Folder(path)
    files = run_on_main(lambda: _files(folder))
    metadata = run_on_main(lambda: folder.get_checked(METADATA, files[METADATA]))
    reader = Reader(folder, metadata, lambda name: folder.get_checked(name, files[name]))
    try:
        _collectively(lambda: dcp.load(tensors, storage_reader=reader))
    except CheckpointException as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
        raise CheckpointError(
            f"{path}: does not fit this model ({reason[:300]}). A checkpoint loads into the model, "
            "tables' optimiser and data that it was made with; use its config.yaml, or another "
            "--run-name to begin anew."
        ) from error


def _collectively(function: Callable[[], object]) -> None:
    """Calls a collective of torch. An error of ours on any rank is raised on all of them."""
    try:
        function()
    except CheckpointException as error:  # It is a BaseException.
        for kind in (DamagedCheckpointError, CheckpointError):
            ours = [cause for cause, _ in error.failures.values() if isinstance(cause, kind)]
            if ours:
                raise kind(str(ours[0])) from None
        raise


def _files(folder: Folder) -> dict[str, dict[str, int]]:
    """The marker's list of files, after checking that each one exists with its full length."""
    marker = _marker(folder)
    there = folder.files()
    for name, facts in marker["files"].items():
        if there.get(name) != facts["bytes"]:
            size = f"{there[name]:,} bytes" if name in there else "missing"
            raise folder.damaged(name, f"{size}, the marker says {facts['bytes']:,} bytes")
    return marker["files"]


def _marker(folder: Folder) -> dict[str, Any]:
    try:
        marker = json.loads(folder.get(MARKER))
        version, _ = marker["version"], marker["files"]
    except FileNotFoundError as error:
        raise folder.damaged(MARKER, "missing") from error
    except (ValueError, KeyError, TypeError) as error:
        raise folder.damaged(MARKER, "not the JSON that was written") from error
    if version != VERSION:
        raise CheckpointError(
            f"{folder}: written by another version of ctrdist (format {version}); this one reads "
            f"format {VERSION}. Use that version, or another --run-name to begin anew."
        )
    return marker


def _entry(path: str) -> Entry:
    try:
        marker = _marker(Folder(path))
    except CheckpointError:  # A damaged one counts as one without a value.
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
    why = f" ({MARKER} is written last)" if there else "; nothing is there"
    raise CheckpointError(
        f"{path}: has no whole checkpoint{why}. Give --checkpoint a run's directory (runs/NAME) or "
        f"one of its checkpoints/{_PREFIX}… directories."
    )


def _step_of(path: str) -> int:
    return int(path.rpartition("/")[2].removeprefix(_PREFIX))


def _begin(folder: Folder) -> str:
    """Begins a save in an empty folder; returns its token."""
    token = secrets.token_hex(4)
    _remove(folder)
    folder.put(BEGUN, token.encode())
    return token


def _remove(folder: Folder) -> None:
    folder.remove(MARKER)  # First, so that an interrupted removal leaves none that looks whole.
    folder.remove()
