"""Checkpoints: tensors by torch.distributed.checkpoint, everything else as JSON, a marker last.

A checkpoint is a directory step-<n>; without its marker it does not exist. It names the model, the
data and the plan it was made with, so it can be evaluated on its own, and it loads into any number
of workers and any plan.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from ctrdist.distributed import run_on_main
from ctrdist.errors import CheckpointError

MARKER = "complete.json"
_STATE, _CONFIG, _SCHEMA, _PLAN = "state.json", "config.yaml", "schema.json", "plan.json"
VERSION = 1


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
class Saved:
    """A whole checkpoint on disk."""

    path: Path
    step: int
    state: dict[str, Any]
    """State of loader, schedule and progress."""
    texts: Texts


class CheckpointStore:
    """The checkpoints of one run."""

    def __init__(self, directory: str | Path, keep: int) -> None:
        """Opens a directory of checkpoints; makes nothing.

        Args:
            directory: holds step-<n> directories; all workers must see it.
            keep: how many of the newest to keep, beside those that a caller protects.
        """
        self.directory = Path(directory)
        self._keep = max(1, keep)

    def complete(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        found = [path for path in self.directory.glob("step-*") if (path / MARKER).is_file()]
        return sorted(found, key=_step_of)

    def save(
        self,
        step: int,
        tensors: dict[str, Any],
        state: dict[str, Any],
        texts: Texts,
        protect: set[int],
    ) -> Path:
        """Writes a checkpoint; every rank calls it.

        Args:
            step: its number.
            tensors: nested dict of tensors, this rank's part of the sharded ones.
            state: JSON-ready, the same on all ranks.
            texts: config, schema and plan.
            protect: steps that retention must not remove.
        """
        path = self.directory / f"step-{step:09d}"
        run_on_main(lambda: _fresh(path))
        dcp.save(tensors, checkpoint_id=str(path))
        run_on_main(lambda: self._finish(path, state, texts, protect | {step}))
        return path

    def latest(self) -> Path | None:
        """The newest whole checkpoint."""
        found = self.complete()
        return found[-1] if found else None

    def path_of(self, step: int) -> Path:
        """Directory of the checkpoint of that step."""
        return self.directory / f"step-{step:09d}"

    def _finish(self, path: Path, state: dict[str, Any], texts: Texts, protect: set[int]) -> None:
        _write(path / _STATE, json.dumps({"version": VERSION, **state}, indent=1))
        for name, text in ((_CONFIG, texts.config), (_SCHEMA, texts.schema), (_PLAN, texts.plan)):
            _write(path / name, text)
        sizes = {file.name: file.stat().st_size for file in sorted(path.iterdir())}
        _write(path / MARKER, json.dumps({"version": VERSION, "files": sizes}, indent=1))
        for old in self.complete()[: -self._keep]:
            if _step_of(old) not in protect:
                (old / MARKER).unlink()  # first, so that a kill here leaves no whole-looking ruin
                shutil.rmtree(old)


def read(path: str | Path) -> Saved:
    """Opens a checkpoint and checks that it is whole.

    Args:
        path: a step-<n> directory, a run's directory (its best checkpoint, else its newest), or its
            checkpoints directory.

    Raises:
        CheckpointError: there is none, or a file is missing or of another size.
    """
    found = _resolve(Path(path))
    marker = json.loads((found / MARKER).read_text())
    for name, size in marker["files"].items():
        file = found / name
        if not file.is_file() or file.stat().st_size != size:
            there = f"{file.stat().st_size:,} bytes" if file.is_file() else "missing"
            raise CheckpointError(
                f"{file}: {there}, the marker says {size:,} bytes. The checkpoint is damaged; use "
                f"another one of {found.parent}."
            )
    state = json.loads((found / _STATE).read_text())
    if state.pop("version") != VERSION:
        raise CheckpointError(
            f"{found}: written by another version of ctrdist; this one reads version {VERSION}."
        )
    texts = Texts(
        config=(found / _CONFIG).read_text(),
        schema=(found / _SCHEMA).read_text(),
        plan=(found / _PLAN).read_text(),
    )
    return Saved(path=found, step=_step_of(found), state=state, texts=texts)


def load_tensors(path: Path, tensors: dict[str, Any]) -> None:
    """Loads a checkpoint into existing tensors, resharding as needed; every rank calls it.

    Raises:
        CheckpointError: a tensor is missing there or has another shape.
    """
    try:
        dcp.load(tensors, checkpoint_id=str(path))
    except (CheckpointException, RuntimeError, ValueError) as error:  # the first is a BaseException
        reason = next(
            (line.strip() for line in reversed(str(error).splitlines()) if line.strip()),
            type(error).__name__,
        )
        raise CheckpointError(
            f"{path}: does not fit this model ({reason[:300]}). A checkpoint loads into the model, "
            "tables' optimiser and data that it was made with; use its config.yaml, or another "
            "--run-name to begin anew."
        ) from error


def _resolve(path: Path) -> Path:
    if (path / MARKER).is_file():
        return path
    for directory in (path / "checkpoints", path):
        store = CheckpointStore(directory, keep=1)
        newest = store.latest()
        if newest is not None:
            best = json.loads((newest / _STATE).read_text()).get("progress", {}).get("best_step")
            chosen = newest if best is None else store.path_of(best)
            return chosen if (chosen / MARKER).is_file() else newest
    what = (
        "has no whole checkpoint (complete.json is written last)"
        if path.is_dir()
        else "does not exist"
    )
    raise CheckpointError(
        f"{path}: {what}. Give --checkpoint a run's directory (runs/NAME) or one of its "
        "checkpoints/step-… directories."
    )


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _fresh(path: Path) -> None:
    if path.exists():
        (path / MARKER).unlink(missing_ok=True)
        shutil.rmtree(path)
    path.mkdir(parents=True)


def _write(path: Path, text: str) -> None:
    with open(path, "w") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
