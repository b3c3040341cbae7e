"""Runs training jobs as processes, finds their workers, and compares what they leave."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict_from_keys

from ctrdist.checkpoint.folder import Folder
from ctrdist.checkpoint.reader import Reader
from ctrdist.checkpoint.writer import METADATA

ROOT = Path(__file__).resolve().parents[1]
SMALL_MODEL = {
    "auto": "[]",
    "model.embedding_dim": 8,
    "model.num_layers": 1,
    "model.tokens_per_block": 4,
    "model.rank": 3,
    "model.hidden_dim": 16,
    "model.attention_layers": 1,
    "model.dropout": 0.2,
    "loader.batch_size": 50,
    "loader.shuffle_rows": 1000,
    "optim.tables.name": "adagrad",
    "optim.tables.lr": 0.05,
    "train.epochs": 2,
    "checkpoint.every_steps": 10,
    "tracking.mlflow": False,
    "tracking.every_steps": 1,
    "diagnostics.enabled": False,  # tests/distributed/test_diagnostics.py restarts runs with them
}


class Job:
    """jobs/train_dlf.py on a small model, in a process of its own."""

    def __init__(
        self,
        data: str,
        runs: Path,
        name: str,
        settings: dict[str, Any],
        env: dict[str, str] | None = None,
        launcher: Sequence[str] = (),
    ) -> None:
        """Starts it.

        Args:
            data: the data set.
            runs: directory of the runs; the output goes to <name>.out and <name>.err there.
            name: of the run.
            settings: options, beside SMALL_MODEL.
            env: environment variables, beside those of this process.
            launcher: what starts the script in place of Python.
        """
        runs.mkdir(parents=True, exist_ok=True)
        self.run_dir = runs / name
        self._out, self._err = runs / f"{name}.out", runs / f"{name}.err"
        options = {"data": data, "runs": runs, "run-name": name, **SMALL_MODEL, **settings}
        arguments = [part for key, value in options.items() for part in (f"--{key}", str(value))]
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(
                [*(launcher or [sys.executable]), "jobs/train_dlf.py", *arguments, "--json"],
                cwd=ROOT,
                env={**os.environ, **(env or {})},
                stdout=out,
                stderr=err,
                # a shell starts what runs in its background with Ctrl-C ignored
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def result(self) -> dict[str, Any]:
        """What --json printed; the job must end well."""
        code = self.wait()
        assert code == 0, self.err + self.out
        return json.loads(self.out.strip().splitlines()[-1])

    def wait(self, timeout: float = 280.0) -> int:
        """Its exit code; it is killed with all that it started where it takes longer."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill_all()
            raise AssertionError(f"no end in {timeout} s:\n{self.err}") from None

    def step(self) -> int:
        """The last step that the run has recorded."""
        try:
            lines = (self.run_dir / "events.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return 0
        steps = [
            event["step"]
            for event in map(_parsed, lines)
            if event.get("kind") == "metrics" and "training/loss" in event["values"]
        ]
        return steps[-1] if steps else 0

    def wait_for_step(self, step: int, timeout: float = 240.0) -> None:
        """Returns once the run has taken that many steps."""
        deadline = time.monotonic() + timeout
        while self.step() < step:
            assert self.process.poll() is None, f"ended before step {step}:\n{self.err}"
            assert time.monotonic() < deadline, f"not at step {step} in {timeout} s:\n{self.err}"
            time.sleep(0.02)

    def workers(self) -> list[psutil.Process]:
        """Ray Train's workers, oldest first."""
        return [child for child in self.started() if child.name().startswith("ray::RayTrainW")]

    def started(self) -> list[psutil.Process]:
        """All that the job has started, as far as it is alive."""
        alive = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                child.name()
                alive.append(child)
            except psutil.NoSuchProcess:
                continue
        return alive

    def kill_all(self) -> None:
        """kill -9 of the job and of all that it has started, its Ray with it."""
        for process in [*self.started(), psutil.Process(self.process.pid)]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait()


def tensors(checkpoint: str | Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, put together, by name."""
    flat: dict[str, torch.Tensor] = {}

    def collect(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                collect(f"{prefix}/{key}", inner)
        elif isinstance(value, torch.Tensor):
            flat[prefix] = value

    folder = Path(checkpoint)
    reader = Reader(
        Folder(folder),
        (folder / METADATA).read_bytes(),
        lambda name: (folder / name).read_bytes(),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is unavailable")
        collect("", _load_state_dict_from_keys(storage_reader=reader))
    return flat


def differing(checkpoint: str | Path, other: str | Path) -> list[str]:
    """Names of the tensors of two checkpoints that are not equal bit by bit."""
    one, two = tensors(checkpoint), tensors(other)
    assert one, f"{checkpoint}: no tensors"
    return [
        name
        for name in sorted(one.keys() | two.keys())
        if name not in one or name not in two or not torch.equal(one[name], two[name])
    ]


def assert_same_end(result: dict[str, Any], undisturbed: dict[str, Any]) -> None:
    """Both runs have seen the same rows and ended with the same weights and metrics."""
    assert result["rows_seen"] == undisturbed["rows_seen"] > 0
    assert result["steps"] == undisturbed["steps"]
    assert result["test"] == undisturbed["test"]
    assert differing(result["checkpoint"], undisturbed["checkpoint"]) == []


def _parsed(line: str) -> dict[str, Any]:
    try:
        return json.loads(line)
    except ValueError:
        return {}  # cut off
