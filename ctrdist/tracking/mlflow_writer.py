"""Sends events to MLflow. Sending one twice changes nothing, so an interruption does no harm."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
import sqlite3
import time
import uuid
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from ctrdist.config.experiment import TrackingConfig
from ctrdist.log import quiet_environment
from ctrdist.tracking.address import tracking_store, without_credentials
from ctrdist.tracking.events import EVENTS_NAME, Artifact, DatasetUse, Event, Finish, read_events
from ctrdist.tracking.mlflow_page import experiment_tags, runs_page

log = logging.getLogger(__name__)

STATE_NAME = "mlflow_run.json"
KEY_TAG = "ctrdist.run_key"
# Limits of MLflow's log_batch, and of its values.
METRICS_PER_CALL, ENTRIES_PER_CALL = 1000, 100
PARAM_CHARS, TAG_CHARS, KEY_CHARS = 500, 5000, 250
_REFUSED = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "PERMISSION_DENIED", "INVALID_STATE")
_PAUSES = (0.0, 1.0, 2.0)
"""Seconds before an event is tried again that failed for another reason, such as HTTP 503."""
_SQLITE = "sqlite:///"
_ENVIRONMENT = {
    # Short, so that an unreachable server is found out soon.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    # The sender retries, without a warning of urllib3 each time.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}


@dataclass(kw_only=True)
class MlflowState:
    """Content of mlflow_run.json."""

    key: str
    """Random text of the run directory. The MLflow run has it as a tag, to be found again."""
    tracking_uri: str
    """MLflow's address, without user and password."""
    artifact_location: str | None
    """Place of the artifacts with the default SQLite store; None leaves it to the server."""
    experiment: str
    """Name of the MLflow experiment."""
    run_name: str
    """Name of the run."""
    run_id: str | None = None
    """MLflow's id, once there is one."""
    delivered: int = 0
    """Offset in events.jsonl up to which MLflow has everything but `skipped`."""
    skipped: list[int] = field(default_factory=list)
    """Offsets of the events that MLflow refused. `replay` sends them again."""

    def save(self, run_dir: Path) -> None:
        """Replaces the file at once, so that it is never half-written."""
        temporary = run_dir / f"{STATE_NAME}.tmp"
        temporary.write_text(json.dumps(asdict(self), indent=1) + "\n")
        os.replace(temporary, run_dir / STATE_NAME)

    @classmethod
    def load(cls, run_dir: Path) -> MlflowState | None:
        """The saved state; None if there is none that can be read."""
        try:
            return cls(**json.loads((run_dir / STATE_NAME).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def move_to(self, tracking_uri: str, artifact_location: str | None) -> None:
        """Changes the MLflow store. Another store gets all events from the beginning."""
        if self.tracking_uri != without_credentials(tracking_uri):
            self.tracking_uri = without_credentials(tracking_uri)
            self.artifact_location = artifact_location
            self.forget_run()

    def forget_run(self) -> None:
        """Lets the next attempt make a new run and send everything."""
        self.run_id, self.delivered, self.skipped = None, 0, []


class MlflowWriter:
    """Sends the events that MLflow lacks: see :data:`ctrdist.tracking.sender.SERVICES`."""

    state_file: ClassVar = STATE_NAME
    hint: ClassVar = "Start it, or set MLFLOW_TRACKING_URI to one that runs"

    def __init__(self, run_dir: Path, state: MlflowState, tracking_uri: str) -> None:
        """Does not connect yet.

        The state tells the MLflow run and what it has; it is kept up to date, in its file too. The
        address may have credentials.
        """
        self.address = without_credentials(tracking_uri)
        self._events = run_dir / EVENTS_NAME
        self._run_dir, self._state, self._tracking_uri = run_dir, state, tracking_uri
        self._client: Any = None
        self._experiment_id = ""
        self._run_checked = False

    @classmethod
    def open(
        cls, run_dir: Path, runs_dir: Path, run_name: str, config: TrackingConfig
    ) -> MlflowWriter | None:
        """The writer of a run that starts, or starts again; None if it does without MLflow."""
        if not config.mlflow:
            return None
        if importlib.util.find_spec("mlflow") is None:
            log.info(
                "MLflow is not installed: the run is recorded in %s only", run_dir / EVENTS_NAME
            )
            return None
        uri, artifact_location = tracking_store(runs_dir)
        state = MlflowState.load(run_dir) or MlflowState(
            key=uuid.uuid4().hex,
            tracking_uri=without_credentials(uri),
            artifact_location=artifact_location,
            experiment=config.experiment,
            run_name=run_name,
        )
        state.move_to(uri, artifact_location)
        state.save(run_dir)
        return cls(run_dir, state, uri)

    @classmethod
    def reopen(cls, run_dir: Path, address: str = "") -> MlflowWriter | None:
        """The writer of a run that was recorded with MLflow before; None if it was not.

        The address replaces MLFLOW_TRACKING_URI, which replaces that of the run.
        """
        state = MlflowState.load(run_dir)
        if state is None:
            return None
        uri = address or os.environ.get("MLFLOW_TRACKING_URI") or state.tracking_uri
        state.move_to(uri, None)
        return cls(run_dir, state, uri)

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run, once it has one."""
        return self._state.run_id

    @property
    def page(self) -> str:
        """Address of MLflow's list of the runs; empty before MLflow has answered."""
        return runs_page(self.address, self._experiment_id) if self._experiment_id else ""

    @property
    def pending(self) -> bool:
        """True if there are events to send."""
        return self._events.stat().st_size > self._state.delivered

    @property
    def refused(self) -> str:
        """Names the events that MLflow refused; empty if there are none."""
        skipped = self._state.skipped
        return f"{len(skipped)} of its events, the first at byte {skipped[0]}" if skipped else ""

    def send(self) -> None:
        """Sends all events that are there now; raises any exception if MLflow does not answer.

        The state says what was sent before that.
        """
        self._ensure_run()
        while self.pending:
            events, end = read_events(self._events, self._state.delivered)
            if end == self._state.delivered:  # The last line is not complete.
                return
            try:
                for _, group in groupby(events, lambda e: -1 if e.kind == "metrics" else e.start):
                    self._send_or_skip(list(group))
                self._state.delivered = end
            finally:
                self._state.save(self._run_dir)

    def send_refused(self) -> None:
        """Sends the refused events once more; `refused` names those that are refused again."""
        self._ensure_run()
        for offset in list(self._state.skipped):
            events, _ = read_events(self._events, offset, max_bytes=1)
            with suppress(Exception):
                self._send(events[:1])
                self._state.skipped.remove(offset)
        self._state.save(self._run_dir)

    def _send_or_skip(self, group: list[Event]) -> None:
        """Sends events, but for those that MLflow refuses: they must not hold back all others."""
        try:
            self._send(group)
        except Exception as error:
            if not self._run_exists():  # Raises an exception if MLflow is away.
                self._state.forget_run()
                self._run_checked = False
                raise
            if len(group) > 1:
                half = len(group) // 2
                self._send_or_skip(group[:half])
                self._send_or_skip(group[half:])
            else:
                self._try_again(group, error)
        self._state.delivered = max(self._state.delivered, group[-1].end)

    def _try_again(self, group: list[Event], error: Exception) -> None:
        """Sends an event again, with pauses, unless MLflow calls it invalid; then leaves it out."""
        for pause in () if getattr(error, "error_code", "") in _REFUSED else _PAUSES:
            time.sleep(pause)
            try:
                return self._send(group)
            except Exception as again:
                self._run_exists()  # Raises an exception if MLflow is away by now.
                error = again
        return self._skip(group[0], error)

    def _skip(self, event: Event, error: Exception) -> None:
        name = event.values.get("name", "") if event.kind in ("artifact", "dataset") else ""
        report = log.debug if self._state.skipped else log.warning  # One warning is enough.
        report(
            "MLflow answers but refuses %s %s (%s); events.jsonl has it", event.kind, name, error
        )
        self._state.skipped.append(event.start)

    def _send(self, group: list[Event]) -> None:
        event = group[0]
        if event.kind == "metrics":
            points = [
                self._entities.Metric(_name(key), float(value), e.time_ms, e.step or 0)
                for e in group
                for key, value in e.values.items()
            ]
            self._log("metrics", points)
        elif event.kind == "start":
            self._client.update_run(self._state.run_id, status="RUNNING", name=self._state.run_name)
        elif event.kind == "params":
            self._send_params(event.values)
        elif event.kind == "tags":
            self._send_tags(event.values)
        elif event.kind == Artifact.KIND:
            artifact = Artifact(**event.values)
            folder = artifact.name.rpartition("/")[0] or None
            path = str(self._run_dir / artifact.path)
            self._client.log_artifact(self._state.run_id, path, folder)
        elif event.kind == DatasetUse.KIND:
            self._send_dataset(DatasetUse(**event.values))
        elif event.kind == Finish.KIND:
            status = Finish(**event.values).status
            self._client.set_terminated(self._state.run_id, status, event.time_ms)

    def _send_params(self, given: dict[str, Any]) -> None:
        values = _texts(given, PARAM_CHARS)
        known = self._client.get_run(self._state.run_id).data.params
        new = [self._entities.Param(k, v) for k, v in values.items() if k not in known]
        self._log("params", new)
        # MLflow's params never change: those that differ when a run is resumed become tags.
        self._send_tags({f"changed.{k}": v for k, v in values.items() if known.get(k, v) != v})

    def _send_tags(self, given: dict[str, Any]) -> None:
        tags = [self._entities.RunTag(k, v) for k, v in _texts(given, TAG_CHARS).items()]
        self._log("tags", tags)

    def _log(self, kind: str, items: list[Any]) -> None:
        size = METRICS_PER_CALL if kind == "metrics" else ENTRIES_PER_CALL
        for start in range(0, len(items), size):
            self._client.log_batch(self._state.run_id, **{kind: items[start : start + size]})

    def _send_dataset(self, used: DatasetUse) -> None:
        profile = {f"{split}_rows": rows for split, rows in used.rows.items()}
        dataset = self._entities.Dataset(
            name=used.name,
            digest=used.fingerprint[:36],
            source_type=used.path.split("://")[0] if "://" in used.path else "local",
            source=json.dumps({"uri": used.path}),
            profile=json.dumps({**profile, **used.profile}),
        )
        tags = [self._entities.InputTag("mlflow.data.context", "training")]
        entry = self._entities.DatasetInput(dataset=dataset, tags=tags)
        self._client.log_inputs(self._state.run_id, [entry])
        facts = {"data.path": used.path, "data.fingerprint": used.fingerprint}
        self._send_tags({"data": used.name, **facts})

    def _ensure_run(self) -> None:
        if self._client is None:
            for name, value in {**quiet_environment(), **_ENVIRONMENT}.items():
                os.environ.setdefault(name, value)
            from mlflow import MlflowClient, entities

            if self._tracking_uri.startswith(_SQLITE):
                _create_sqlite(Path(self._tracking_uri.removeprefix(_SQLITE)))
            self._client = MlflowClient(tracking_uri=self._tracking_uri)
            self._entities: Any = entities
        if self._run_checked:
            return
        if self._state.run_id is not None and not self._run_exists():
            self._state.forget_run()
        if self._state.run_id is None:
            self._find_or_create_run()
        self._run_checked = True

    def _run_exists(self) -> bool:
        """True if the server knows the run; raises an exception if it does not answer."""
        from mlflow import MlflowException

        try:
            run = self._client.get_run(self._state.run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        self._experiment_id = run.info.experiment_id
        return True

    def _find_or_create_run(self) -> None:
        self._experiment_id = experiment_id = self._experiment()
        # An earlier request may have created the run although its answer was lost.
        found = self._client.search_runs(
            [experiment_id], filter_string=f"tags.`{KEY_TAG}` = '{self._state.key}'", max_results=1
        )
        if found:
            self._state.run_id = found[0].info.run_id
        else:
            first, _ = read_events(self._events, 0)
            run = self._client.create_run(
                experiment_id,
                start_time=first[0].time_ms if first else None,
                tags={KEY_TAG: self._state.key},
                run_name=self._state.run_name,
            )
            self._state.run_id = run.info.run_id
        self._state.save(self._run_dir)

    def _experiment(self) -> str:
        from mlflow import MlflowException

        known = self._client.get_experiment_by_name(self._state.experiment)
        if known is None:
            try:
                return self._client.create_experiment(
                    self._state.experiment,
                    artifact_location=self._state.artifact_location,
                    tags=experiment_tags(),
                )
            except MlflowException:  # Another run may have created it in the meantime.
                known = self._client.get_experiment_by_name(self._state.experiment)
                if known is None:
                    raise
        if known.lifecycle_stage == "deleted":
            raise RuntimeError(
                f"the MLflow experiment {self._state.experiment} is deleted; restore it with "
                f"`mlflow experiments restore --experiment-id {known.experiment_id}`"
            )
        with suppress(MlflowException):  # It is somebody else's experiment.
            for key, value in experiment_tags().items():
                if key not in known.tags:
                    self._client.set_experiment_tag(known.experiment_id, key, value)
        return known.experiment_id


def _create_sqlite(path: Path) -> None:
    """Makes MLflow's database as a whole, if there is none.

    MLflow itself makes it table by table. Two runs that start together, or one that is killed
    meanwhile, would leave a database that never opens again.
    """
    from mlflow import MlflowClient

    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".mlflow-new-", dir=path.parent) as folder:
        made, copied = Path(folder, "made.db"), Path(folder, "copied.db")
        MlflowClient(tracking_uri=f"{_SQLITE}{made.resolve()}").search_experiments(max_results=1)
        # MLflow keeps `made` open, so its content is copied. The link fails if another run won.
        with closing(sqlite3.connect(made)) as source, closing(sqlite3.connect(copied)) as target:
            source.backup(target)
        with suppress(FileExistsError):
            os.link(copied, path)


def _name(name: str) -> str:
    return re.sub(r"[^\w\-. :/]", "_", name)[:KEY_CHARS]


def _texts(values: dict[str, Any], limit: int) -> dict[str, str]:
    """Values as MLflow takes them: texts of at most so many characters under valid names."""
    texts = {_name(k): v if isinstance(v, str) else json.dumps(v) for k, v in values.items()}
    return {k: v if len(v) <= limit else v[: limit - 1] + "…" for k, v in texts.items()}
