"""Records one run; used on rank 0 of training, and by jobs/evaluate.py."""

from __future__ import annotations

import importlib.util
import json
import logging
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from ctrdist.config.experiment import TrackingConfig
from ctrdist.tracking.events import EVENTS_NAME, EventLog, metric_history, read_events
from ctrdist.tracking.mlflow_writer import MlflowSink
from ctrdist.tracking.sender import RETRY_SECONDS, Delivery
from ctrdist.tracking.state import STATE_NAME, MlflowState, tracking_store, without_credentials
from ctrdist.tracking.system import SystemSampler
from ctrdist.tracking.versions import environment_tags

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

Status = Literal["FINISHED", "FAILED", "KILLED"]
RUN_ID_WAIT = 10.0
"""Seconds that `run_id` waits at most for MLflow."""


class RunTracker:
    """Writes everything to events.jsonl first; a thread delivers it to MLflow from there.

    No method waits for a server but `finish` and `run_id`. An MLflow that is slow, away or broken
    costs one warning and nothing else: what it missed is delivered when it answers again, when the
    run is started again, or by :func:`ctrdist.tracking.replay`.
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
        """Opens events.jsonl; MLflow is not spoken to before `start`.

        Args:
            run_dir: the run's directory, local; made where missing.
            runs_dir: the directory of all runs, where MLflow's default store is.
            run_name: the run's name in MLflow.
            config: whether MLflow is used, and its experiment.
            resume: go on with the events and the MLflow run in run_dir. Otherwise those of an
                earlier run there are put aside under other names.
            retry_seconds: least time between two attempts while MLflow does not answer.
        """
        self.run_dir = Path(run_dir)
        self.run_dir.mkdir(parents=True, exist_ok=True)
        if not resume:
            _put_aside(self.run_dir)
        self._environment = environment_tags()  # here: it asks git, which takes time
        self._log = EventLog(self.run_dir / EVENTS_NAME)
        self._began_ms = _first_time_ms(self.run_dir / EVENTS_NAME)
        self._local_id = f"local-{uuid.uuid4().hex}"
        self._uri = ""
        self._delivery: Delivery | None = None
        self._sampler = SystemSampler(self._log_system, str(self.run_dir))
        self._finished = False
        if not config.mlflow:
            return
        if importlib.util.find_spec("mlflow") is None:
            log.info("MLflow is not installed: the run is recorded in %s only", self._log.path)
            return
        uri, artifact_location = tracking_store(Path(runs_dir))
        self._uri = without_credentials(uri)
        state = MlflowState.load(self.run_dir) or MlflowState(
            key=uuid.uuid4().hex,
            tracking_uri=self._uri,
            artifact_location=artifact_location,
            experiment=config.experiment,
            run_name=run_name,
        )
        state.move_to(uri, artifact_location)
        state.save(self.run_dir)
        self._delivery = Delivery(MlflowSink(self.run_dir, state, uri), retry_seconds)

    def start(
        self,
        params: Mapping[str, Any],
        tags: Mapping[str, str] | None = None,
        artifacts: Mapping[str, str] | None = None,
    ) -> None:
        """Begins, or goes on with, the run; from here on MLflow is told.

        Args:
            params: the resolved config, nested; flattened to section.key.
            tags: beside versions, commit, host and command, which are always there.
            artifacts: name → text.
        """
        restarts = _count_starts(self._log.path)
        self._log.append("start", {})
        self._log.append("params", flatten(params))
        self._log.append("tags", {**self._environment, **(tags or {}), "restarts": str(restarts)})
        for name, text in (artifacts or {}).items():
            self.log_artifact_text(name, text)
        if self._delivery is not None:
            self._delivery.start()
        self._sampler.start()

    @property
    def run_id(self) -> str:
        """MLflow's id of the run; local-… where MLflow is off or does not answer within 10 s."""
        if self._delivery is None or not self._delivery.is_alive():
            state = MlflowState.load(self.run_dir) if self._delivery is not None else None
            return (state and state.run_id) or self._local_id
        return self._delivery.wait_for_run_id(RUN_ID_WAIT) or self._local_id

    @property
    def tracking_uri(self) -> str:
        """Of MLflow, without user and password; empty where MLflow is not used."""
        return self._uri

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Records numbers; step is whatever the caller counts: steps, epochs."""
        if metrics:
            self._log.append("metrics", {k: float(v) for k, v in metrics.items()}, int(step))

    def metric_history(self, *prefixes: str) -> dict[str, dict[int, float]]:
        """What has been recorded, by any start of the run: see :func:`metric_history`."""
        return metric_history(self._log.path, prefixes)

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Records tags; the last value counts."""
        self._log.append("tags", tags)

    def log_artifact_text(self, name: str, text: str) -> None:
        """Keeps a text as run_dir/artifacts/<name>.

        Where another text has that name, it stays, and the new one is named as config.2.yaml.

        Args:
            name: file name, with folders where wanted; forward slashes.
            text: its content.
        """
        path = _free_path(self.run_dir / "artifacts" / name, text)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        sent_as = path.relative_to(self.run_dir / "artifacts").as_posix()
        stored = path.relative_to(self.run_dir).as_posix()
        self._log.append("artifact", {"name": sent_as, "path": stored})

    def log_figure(self, name: str, figure: Figure) -> None:
        """Draws run_dir/plots/<name>.png, over one of that name; takes about 0.2 s."""
        path = self.run_dir / "plots" / f"{name.removesuffix('.png')}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
        stored = path.relative_to(self.run_dir).as_posix()
        self._log.append("artifact", {"name": stored, "path": stored})

    def log_dataset(
        self,
        name: str,
        path: str,
        fingerprint: str,
        rows: Mapping[str, int],
        profile: Mapping[str, Any] | None = None,
    ) -> None:
        """Records which data the run saw.

        Args:
            name: of the data set.
            path: its directory, local or s3://.
            fingerprint: of its manifest.
            rows: split → number of rows.
            profile: further figures, ready for JSON.
        """
        values = {
            "name": name,
            "path": path,
            "fingerprint": fingerprint,
            "rows": dict(rows),
            "profile": dict(profile or {}),
        }
        self._log.append("dataset", values)

    def finish(self, status: Status, summary: Mapping[str, Any] | None = None) -> None:
        """Ends the run; a second call does nothing.

        Waits for MLflow: at most 30 s while it answers, 15 s otherwise.

        Args:
            status: how it ended.
            summary: its results, nested; numbers become metrics final/…, all of it summary.json.
        """
        if self._finished:
            return
        self._finished = True
        self._sampler.stop()
        flat = flatten(summary or {}, "/")
        if flat:
            numbers = {f"final/{k}": float(v) for k, v in flat.items() if _is_number(v)}
            self.log_metrics(numbers, 0)
            text = json.dumps(summary, indent=1, default=str) + "\n"
            self.log_artifact_text("summary.json", text)
        self._log.append("finish", {"status": status, "summary": summary or {}})
        if self._delivery is not None and self._delivery.is_alive() and not self._delivery.close():
            log.warning(
                "MLflow at %s has not got all of this run. %s has; deliver it later with "
                "ctrdist.tracking.replay(%r).",
                self._uri,
                self._log.path,
                str(self.run_dir),
            )
        self._log.close()

    def __enter__(self) -> RunTracker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the run: failed where the block ended by an error, killed where by an interrupt."""
        if kind is None:
            self.finish("FINISHED")
        else:
            killed = issubclass(kind, KeyboardInterrupt | SystemExit)
            self.finish("KILLED" if killed else "FAILED", {"error": f"{kind.__name__}: {error}"})

    def _log_system(self, metrics: dict[str, float]) -> None:
        elapsed = (time.time_ns() // 1_000_000 - self._began_ms) // 1000
        self.log_metrics(metrics, elapsed)


def flatten(nested: Mapping[str, Any], separator: str = ".") -> dict[str, Any]:
    """{"a": {"b": 1}} → {"a.b": 1}; an empty mapping stays a value, so that no key is lost."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping) and value:
            inner = flatten(value, separator)
            flat.update({f"{key}{separator}{name}": item for name, item in inner.items()})
        else:
            flat[str(key)] = value
    return flat


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _free_path(path: Path, text: str) -> Path:
    """The path where it is free or has that text already, otherwise the first numbered one."""
    number, candidate = 1, path
    while candidate.exists() and candidate.read_text() != text:
        number += 1
        candidate = path.with_name(f"{path.stem}.{number}{path.suffix}")
    return candidate


def _put_aside(run_dir: Path) -> None:
    """Renames the events of an earlier run in that directory, and its state."""
    if not (run_dir / EVENTS_NAME).exists():
        (run_dir / STATE_NAME).unlink(missing_ok=True)
        return
    number = 1
    while (run_dir / f"{EVENTS_NAME}.{number}").exists():
        number += 1
    for name in (EVENTS_NAME, STATE_NAME):
        if (run_dir / name).exists():
            (run_dir / name).rename(run_dir / f"{name}.{number}")


def _count_starts(path: Path) -> int:
    """How often the run has been started before, by a person or after a fault."""
    count = offset = 0
    while True:
        events, end = read_events(path, offset)
        if end == offset:
            return count
        count += sum(event.kind == "start" for event in events)
        offset = end


def _first_time_ms(path: Path) -> int:
    events, _ = read_events(path, 0, max_bytes=1 << 16)
    return events[0].time_ms if events else time.time_ns() // 1_000_000
