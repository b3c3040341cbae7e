"""Delivers events to MLflow. Sending one twice changes nothing, so a cut does no harm."""

from __future__ import annotations

import json
import logging
import os
import re
import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from ctrdist.tracking.events import EVENTS_NAME, Event, read_events
from ctrdist.tracking.state import MlflowState

log = logging.getLogger(__name__)

KEY_TAG = "ctrdist.run_key"
# Limits of MLflow's log_batch, and of its values.
METRICS_PER_CALL, ENTRIES_PER_CALL = 1000, 100
PARAM_CHARS, TAG_CHARS, KEY_CHARS = 500, 5000, 250
_REFUSED = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "PERMISSION_DENIED", "INVALID_STATE")
_PAUSES = (0.0, 1.0, 2.0)
"""Seconds before an event is tried again that failed while MLflow answers otherwise."""
_SQLITE = "sqlite:///"
_ENVIRONMENT = {
    # Short: an unreachable server is to be found out, not waited for.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    # Tried again here, without urllib3's warning each time.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # Training may print results to stdout; a run must need no network.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


class MlflowSink:
    """Sends what events.jsonl has and MLflow has not. Not for more than one thread at once."""

    def __init__(self, run_dir: Path, state: MlflowState, tracking_uri: str) -> None:
        """Connects to nothing yet.

        Args:
            run_dir: the run's directory, with events.jsonl.
            state: which MLflow run, and how far; kept up to date, in its file too.
            tracking_uri: of MLflow, with credentials if it has some.
        """
        self.run_dir = run_dir
        self.state = state
        self.tracking_uri = tracking_uri
        self._client: Any = None
        self._run_checked = False

    @property
    def pending(self) -> bool:
        """Whether there is something to send."""
        return (self.run_dir / EVENTS_NAME).stat().st_size > self.state.delivered

    def deliver(self) -> None:
        """Sends all that is there now.

        Raises:
            Exception: of any kind, where MLflow does not answer or fails; what was sent is noted.
        """
        self._ensure_run()
        while True:
            events, end = read_events(self.run_dir / EVENTS_NAME, self.state.delivered)
            if end == self.state.delivered:
                return
            try:
                self._send_all(events)
                self._advance(end)
            finally:
                self.state.save(self.run_dir)

    def deliver_skipped(self) -> None:
        """Sends once more what MLflow refused; what it refuses again stays in `state.skipped`."""
        self._ensure_run()
        for offset in list(self.state.skipped):
            events, _ = read_events(self.run_dir / EVENTS_NAME, offset, max_bytes=1)
            try:
                self._send(events[:1])
            except Exception:
                continue
            self.state.skipped.remove(offset)
        self.state.save(self.run_dir)

    def _send_all(self, events: list[Event]) -> None:
        for group in _groups(events):
            try:
                self._send(group)
            except Exception as error:
                # Either MLflow is away, and then this fails too, or it does not like an event.
                if not self._run_exists():
                    self._forget_run()
                    raise
                if len(group) > 1:
                    half = len(group) // 2
                    self._send_all(group[:half])
                    self._send_all(group[half:])
                else:
                    self._send_again(group, error)
            self._advance(group[-1].end)

    def _send_again(self, group: list[Event], error: Exception) -> None:
        """Sends one event once more or leaves it out, so that it does not hold back all others."""
        for pause in () if getattr(error, "error_code", "") in _REFUSED else _PAUSES:
            time.sleep(pause)
            try:
                return self._send(group)
            except Exception as again:
                self._client.get_run(self.state.run_id)  # raises where MLflow is away by now
                error = again
        (event,) = group
        what = event.values.get("name", "") if event.kind in ("artifact", "dataset") else ""
        report = log.debug if self.state.skipped else log.warning  # once is enough
        report(
            "MLflow answers but refuses %s %s (%s); events.jsonl has it", event.kind, what, error
        )
        self.state.skipped.append(event.start)
        return None

    def _advance(self, offset: int) -> None:
        self.state.delivered = max(self.state.delivered, offset)

    def _send(self, group: list[Event]) -> None:
        kind = group[0].kind
        if kind == "metrics":
            self._send_metrics(group)
        else:
            (event,) = group
            send = {
                "start": self._send_start,
                "params": self._send_params,
                "tags": self._send_tags,
                "artifact": self._send_artifact,
                "dataset": self._send_dataset,
                "finish": self._send_finish,
            }.get(kind)
            if send is not None:
                send(event)

    def _send_metrics(self, group: list[Event]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(_name(key), float(value), event.time_ms, event.step or 0)
            for event in group
            for key, value in event.values.items()
        ]
        for start in range(0, len(metrics), METRICS_PER_CALL):
            batch = metrics[start : start + METRICS_PER_CALL]
            self._client.log_batch(self.state.run_id, metrics=batch)

    def _send_start(self, event: Event) -> None:
        self._client.update_run(self.state.run_id, status="RUNNING", name=self.state.run_name)

    def _send_params(self, event: Event) -> None:
        from mlflow.entities import Param

        values = {_name(k): _cut(_text(v), PARAM_CHARS) for k, v in event.values.items()}
        known = self._client.get_run(self.state.run_id).data.params
        # MLflow's params never change: those of a run that goes on with others become tags.
        changed = {f"changed.{k}": v for k, v in values.items() if known.get(k, v) != v}
        params = [Param(k, v) for k, v in values.items() if k not in known]
        for start in range(0, len(params), ENTRIES_PER_CALL):
            batch = params[start : start + ENTRIES_PER_CALL]
            self._client.log_batch(self.state.run_id, params=batch)
        self._log_tags(changed)

    def _send_tags(self, event: Event) -> None:
        self._log_tags(event.values)

    def _log_tags(self, values: dict[str, Any]) -> None:
        from mlflow.entities import RunTag

        tags = [RunTag(_name(k), _cut(_text(v), TAG_CHARS)) for k, v in values.items()]
        for start in range(0, len(tags), ENTRIES_PER_CALL):
            batch = tags[start : start + ENTRIES_PER_CALL]
            self._client.log_batch(self.state.run_id, tags=batch)

    def _send_artifact(self, event: Event) -> None:
        path = PurePosixPath(event.values["path"])
        folder = PurePosixPath(event.values["name"]).parent.as_posix()
        self._client.log_artifact(
            self.state.run_id, str(self.run_dir / path), None if folder == "." else folder
        )

    def _send_dataset(self, event: Event) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        values = event.values
        dataset = Dataset(
            name=values["name"],
            digest=values["fingerprint"][:36],
            source_type="local" if "://" not in values["path"] else values["path"].split("://")[0],
            source=json.dumps({"uri": values["path"]}),
            profile=json.dumps(
                {
                    **{f"{split}_rows": rows for split, rows in values["rows"].items()},
                    **values.get("profile", {}),  # absent in the events of older runs
                }
            ),
        )
        tags = [InputTag("mlflow.data.context", "training")]
        self._client.log_inputs(self.state.run_id, [DatasetInput(dataset=dataset, tags=tags)])
        self._log_tags(
            {
                "data.name": values["name"],
                "data.path": values["path"],
                "data.fingerprint": values["fingerprint"],
                **{f"data.rows.{split}": rows for split, rows in values["rows"].items()},
            }
        )

    def _send_finish(self, event: Event) -> None:
        self._client.set_terminated(self.state.run_id, event.values["status"], event.time_ms)

    def _ensure_run(self) -> None:
        if self._client is None:
            for name, value in _ENVIRONMENT.items():
                os.environ.setdefault(name, value)
            from mlflow import MlflowClient

            if self.tracking_uri.startswith(_SQLITE):
                _create_sqlite(Path(self.tracking_uri.removeprefix(_SQLITE)))
            self._client = MlflowClient(tracking_uri=self.tracking_uri)
        if self._run_checked:
            return
        if self.state.run_id is not None and not self._run_exists():
            self._forget_run()
        if self.state.run_id is None:
            self._find_or_create_run()
        self._run_checked = True

    def _run_exists(self) -> bool:
        """Whether the server knows the run; raises where it does not answer."""
        from mlflow import MlflowException

        try:
            self._client.get_run(self.state.run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        return True

    def _forget_run(self) -> None:
        """The server has lost the run: the next attempt makes a new one and sends everything."""
        self.state.run_id, self.state.delivered, self.state.skipped = None, 0, []
        self._run_checked = False

    def _find_or_create_run(self) -> None:
        experiment_id = self._experiment()
        # An earlier request may have created it though its answer was lost.
        found = self._client.search_runs(
            [experiment_id], filter_string=f"tags.`{KEY_TAG}` = '{self.state.key}'", max_results=1
        )
        if found:
            self.state.run_id = found[0].info.run_id
        else:
            first, _ = read_events(self.run_dir / EVENTS_NAME, 0)
            run = self._client.create_run(
                experiment_id,
                start_time=first[0].time_ms if first else None,
                tags={KEY_TAG: self.state.key},
                run_name=self.state.run_name,
            )
            self.state.run_id = run.info.run_id
        self.state.save(self.run_dir)

    def _experiment(self) -> str:
        from mlflow import MlflowException

        known = self._client.get_experiment_by_name(self.state.experiment)
        if known is None:
            try:
                return self._client.create_experiment(
                    self.state.experiment,
                    artifact_location=self.state.artifact_location,
                    # the UI opens with training runs, not with what it has for language models
                    tags={"mlflow.experimentKind": "custom_model_development"},
                )
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            # Another run has made it since.
            known = self._client.get_experiment_by_name(self.state.experiment)
        if known.lifecycle_stage == "deleted":
            raise RuntimeError(
                f"the MLflow experiment {self.state.experiment} is deleted; restore it with "
                f"`mlflow experiments restore --experiment-id {known.experiment_id}`"
            )
        return known.experiment_id


def _create_sqlite(path: Path) -> None:
    """Makes MLflow's database where there is none, all at once.

    MLflow itself makes it table by table: two runs that start together, or one that is killed
    meanwhile, would leave a database that never opens again.
    """
    from mlflow import MlflowClient

    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".mlflow-new-", dir=path.parent) as folder:
        made, copied = Path(folder, "made.db"), Path(folder, "copied.db")
        MlflowClient(tracking_uri=f"{_SQLITE}{made.resolve()}").search_experiments(max_results=1)
        # MLflow keeps `made` open, so its content is copied. A link fails where another run won.
        with closing(sqlite3.connect(made)) as source, closing(sqlite3.connect(copied)) as target:
            source.backup(target)
        with suppress(FileExistsError):
            os.link(copied, path)


def _groups(events: list[Event]) -> Iterable[list[Event]]:
    """Metrics that follow each other together, as many as a call takes; other events one by one."""
    group: list[Event] = []
    size = 0
    for event in events:
        joins = event.kind == "metrics" and size + len(event.values) <= METRICS_PER_CALL
        if group and not joins:
            yield group
            group, size = [], 0
        if event.kind == "metrics":
            group.append(event)
            size += len(event.values)
        else:
            yield [event]
    if group:
        yield group


def _name(name: str) -> str:
    return re.sub(r"[^\w\-. :/]", "_", name)[:KEY_CHARS]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
