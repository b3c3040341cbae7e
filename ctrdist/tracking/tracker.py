"""Records one run, on rank 0 of training."""

from __future__ import annotations

import getpass
import itertools
import logging
import os
import platform
import shlex
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ctrdist
from ctrdist.config.experiment import TrackingConfig
from ctrdist.strict_json import to_text
from ctrdist.tracking.events import (
    EVENTS_NAME,
    Artifact,
    DatasetUse,
    EventLog,
    Finish,
    Status,
    all_events,
    metric_history,
)
from ctrdist.tracking.sender import RETRY_SECONDS, SERVICES, Sender
from ctrdist.tracking.system import SystemSampler

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

SHOWN = ("torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "ray", "mlflow", "pyarrow", "numpy")
_ROOT = Path(__file__).resolve().parents[2]
_DESCRIBE = ("git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")
RUN_ID_WAIT = 10.0
"""Seconds that `run_id` waits at most for a tracking service."""


class RunTracker:
    """Writes everything to events.jsonl first; threads send it to tracking services from there.

    No method waits for a server but `finish` and `run_id`. A service that is slow, away or broken
    costs one warning and nothing else. It gets what it missed when it answers again, when the run
    is started again, or by :func:`ctrdist.tracking.replay`, which jobs/replay.py calls.
    """

    def __init__(
        self,
        run_dir: str,
        runs_dir: str,
        run_name: str,
        config: TrackingConfig,
        resume: bool,
        *,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        """Opens events.jsonl; connects to no service before `start`.

        Args:
            run_dir: the run's directory, local; made if it is missing.
            runs_dir: the directory of all runs, which holds MLflow's default store.
            run_name: name under which services show it.
            config: the services that are used.
            resume: continue the events, and the services' runs, of run_dir. Otherwise the files of
                an earlier run there are renamed.
            retry_seconds: least time between two attempts while a service does not answer.
        """
        self._run_dir = Path(run_dir)
        self._run_dir.mkdir(parents=True, exist_ok=True)
        if not resume:
            _put_aside(self._run_dir)
        self._tags = environment_tags()  # Now, as it asks git, which takes time.
        self._log = EventLog(self._run_dir / EVENTS_NAME)
        first = next(all_events(self._log.path), None)
        self._began = first.time_ms / 1000 if first else time.time()
        self._local_id = f"local-{uuid.uuid4().hex}"
        self._senders: list[Sender] = []
        self._sampler = SystemSampler(
            lambda metrics: self.log_metrics(metrics, int(time.time() - self._began)),
            str(self._run_dir),
        )
        self._finished = False
        self.undelivered: list[str] = []
        """Services that have not got all of the run, once it is finished."""
        for name, service in SERVICES.items():
            writer = service.open(self._run_dir, Path(runs_dir), run_name, config)
            if writer is not None:
                self._senders.append(Sender(name, writer, self._run_dir, retry_seconds))

    def start(
        self,
        params: Mapping[str, Any],
        tags: Mapping[str, str] | None = None,
        artifacts: Mapping[str, str] | None = None,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        """Begins or resumes the run, and starts sending.

        The params are the resolved config, flattened to section.key. Those that equal their default
        are left out, unless an earlier start of the run has recorded them. The tags are added to
        commit and command. The artifacts are texts by name, to which the versions are added.
        """
        restarts, known = 0, set[str]()
        for event in all_events(self._log.path):
            restarts += event.kind == "start"
            known |= event.values.keys() if event.kind == "params" else set()
        usual = flatten(defaults or {})
        told = {
            name: value
            for name, value in flatten(params).items()
            if name in known or name not in usual or value != usual[name]
        }
        self._log.append("start", {})
        self._log.append("params", told)
        self._log.append("tags", {**self._tags, **(tags or {}), "restarts": str(restarts)})
        for name, text in {**(artifacts or {}), "environment.json": environment()}.items():
            self.log_artifact_text(name, text)
        for sender in self._senders:
            sender.start()
        self._sampler.start()

    @property
    def run_id(self) -> str:
        """MLflow's id of the run; local-… if MLflow is off or does not answer within 10 s."""
        for sender in self._senders:
            if (run_id := sender.run_id(RUN_ID_WAIT)) is not None:
                return run_id
        return self._local_id

    @property
    def tracking_uri(self) -> str:
        """MLflow's address, without user and password; empty if MLflow is not used."""
        return self._senders[0].writer.address if self._senders else ""

    @property
    def page(self) -> str:
        """Address of MLflow's list of the runs; empty if there is none."""
        return self._senders[0].writer.page if self._senders else ""

    @property
    def command(self) -> str:
        """The command line that has started the run."""
        return self._tags["command"]

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Records tags; one of the same name is replaced."""
        self._log.append("tags", tags)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Records numbers at a step of whatever the caller counts, such as steps or epochs."""
        if metrics:
            self._log.append("metrics", {k: float(v) for k, v in metrics.items()}, int(step))

    def metric_history(self, *prefixes: str) -> dict[str, dict[int, float]]:
        """Metrics recorded by all starts of the run: see :func:`metric_history`."""
        return metric_history(self._log.path, prefixes)

    def log_artifact_text(self, name: str, text: str) -> None:
        """Keeps a text as run_dir/artifacts/<name>; the name may have folders.

        A different text of that name stays, and the new one is named like config.2.yaml.
        """
        wanted = path = self._run_dir / "artifacts" / name
        numbers = itertools.count(2)
        while path.exists() and path.read_text() != text:
            path = wanted.with_stem(f"{wanted.stem}.{next(numbers)}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        stored = path.relative_to(self._run_dir).as_posix()
        self._log.record(Artifact(name=stored.removeprefix("artifacts/"), path=stored))

    def log_figure(self, name: str, figure: Figure) -> None:
        """Draws run_dir/plots/<name>.png, and replaces one of that name; takes about 0.2 s."""
        stored = f"plots/{name}.png"
        (self._run_dir / "plots").mkdir(parents=True, exist_ok=True)
        figure.savefig(self._run_dir / stored, dpi=150)
        self._log.record(Artifact(name=stored, path=stored))

    def log_dataset(self, used: DatasetUse) -> None:
        """Records the data set that the run reads."""
        self._log.record(used)

    def finish(self, status: Status, summary: Mapping[str, Any] | None = None) -> None:
        """Ends the run; a second call does nothing.

        Waits for each service: at most 30 s while it answers, 15 s otherwise. The summary, which
        may be nested, becomes summary.json.
        """
        if self._finished:
            return
        self._finished = True
        self._sampler.stop()
        if summary:
            text = to_text(summary, indent=1) + "\n"
            self.log_artifact_text("summary.json", text)
        self._log.record(Finish(status=status, summary=summary or {}))
        for sender in self._senders:
            if sender.is_alive() and not sender.close():
                self.undelivered.append(sender.service)
        self._log.close()


def package_versions() -> dict[str, str]:
    """Versions of the installed packages, found without importing them."""
    versions = {"python": platform.python_version(), "ctrdist": ctrdist.__version__}
    for package in SHOWN:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def git_commit(root: Path = _ROOT) -> str | None:
    """Commit of the project, with `-dirty` appended if tracked files differ from it.

    CTRDIST_COMMIT takes precedence: a launcher that copies the project without its history sets it.
    Without git, or if the root is not that of a repository, the result is None.
    """
    if given := os.environ.get("CTRDIST_COMMIT"):
        return given
    if (root / ".git").exists():  # A repository further up is another project.
        with suppress(OSError, subprocess.SubprocessError):
            return subprocess.check_output(
                _DESCRIBE, cwd=root, stderr=subprocess.DEVNULL, text=True, timeout=5
            ).strip()
    return None


def environment() -> str:
    """Versions of the packages, host and system, as JSON."""
    facts = {"host": socket.gethostname(), "platform": platform.platform()}
    return to_text({**facts, "versions": package_versions()}, indent=1) + "\n"


def environment_tags() -> dict[str, str]:
    """Tags of every run, among them those that MLflow's own pages show."""
    job, *arguments = sys.argv
    if Path(job).is_relative_to(_ROOT):
        job = str(Path(job).relative_to(_ROOT))
    tags = {"command": shlex.join(["python", job, *arguments])}
    tags |= {"mlflow.source.name": job, "mlflow.source.type": "LOCAL"}
    try:
        tags["mlflow.user"] = getpass.getuser()
    except (KeyError, OSError):  # A user id without a name, as in containers.
        tags["mlflow.user"] = str(os.getuid())
    if commit := git_commit():
        tags["commit"] = commit
        tags["mlflow.source.git.commit"] = commit.removesuffix("-dirty")
    return tags


def flatten(nested: Mapping[str, Any]) -> dict[str, Any]:
    """{"a": {"b": 1}} → {"a.b": 1}; an empty mapping stays a value, so that no key is lost."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping) and value:
            inner = flatten(value)
            flat.update({f"{key}.{name}": item for name, item in inner.items()})
        else:
            flat[str(key)] = value
    return flat


def _put_aside(run_dir: Path) -> None:
    """Renames the events of an earlier run there, and the state of its services.

    A state without events is removed.
    """
    events = run_dir / EVENTS_NAME
    number = next(n for n in itertools.count(1) if not Path(f"{events}.{n}").exists())
    began = events.exists()
    for path in (events, *(run_dir / service.state_file for service in SERVICES.values())):
        if began and path.exists():
            path.rename(f"{path}.{number}")
        path.unlink(missing_ok=True)
