"""Delivers a run to MLflow afterwards, when the server was away until the run's end."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from ctrdist.errors import ConfigError
from ctrdist.tracking.events import EVENTS_NAME, EventLog, read_events
from ctrdist.tracking.mlflow_writer import MlflowSink
from ctrdist.tracking.state import STATE_NAME, MlflowState, without_credentials

log = logging.getLogger(__name__)


def end_killed(run_dir: str, reason: str) -> None:
    """Ends a run as killed whose process was killed before it could; an ended one stays as it is.

    Args:
        run_dir: the run's directory; no process trains it any more.
        reason: becomes the summary's `stopped`.
    """
    path = Path(run_dir) / EVENTS_NAME
    if not path.exists() or _last_kind(path) == "finish":
        return
    events = EventLog(path)
    events.append("finish", {"status": "KILLED", "summary": {"stopped": reason}})
    events.close()
    if MlflowState.load(Path(run_dir)) is None:
        return  # recorded without MLflow
    try:
        replay(run_dir)
    except ConfigError as error:
        log.warning("%s", error)


def _last_kind(path: Path) -> str:
    kind, offset = "", 0
    while True:
        events, end = read_events(path, offset)
        if end == offset:
            return kind
        kind, offset = (events[-1].kind if events else kind), end


def replay(run_dir: str) -> str:
    """Sends what MLflow has not got of a run, in the foreground; nothing is sent twice.

    Args:
        run_dir: the run's directory. The run may be over or not.

    Returns:
        MLflow's id of the run.

    Raises:
        ConfigError: no run is there, it was recorded without MLflow, or MLflow does not answer or
            refuses something.
    """
    directory = Path(run_dir)
    state = MlflowState.load(directory)
    if state is None:
        raise ConfigError(
            f"{run_dir}: no {STATE_NAME} there. Give the directory of a run that was started with "
            "tracking.mlflow true."
        )
    uri = os.environ.get("MLFLOW_TRACKING_URI") or state.tracking_uri
    state.move_to(uri, None)
    sink = MlflowSink(directory, state, uri)
    try:
        sink.deliver()
        sink.deliver_skipped()
    except ImportError as error:
        raise ConfigError(f"{run_dir}: MLflow is not installed here; install it.") from error
    except Exception as error:
        raise ConfigError(
            f"{run_dir}: MLflow at {without_credentials(uri)} fails: {error}. Start it, or set "
            "MLFLOW_TRACKING_URI to one that runs, and try again."
        ) from error
    if state.skipped:
        raise ConfigError(
            f"{run_dir}: MLflow at {without_credentials(uri)} has this run but refuses "
            f"{len(state.skipped)} of its events, the first at byte {state.skipped[0]} of "
            f"{EVENTS_NAME}. Mend what it names there, such as a missing file, and try again."
        )
    assert state.run_id is not None
    return state.run_id
