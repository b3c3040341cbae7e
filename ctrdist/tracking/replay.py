"""Sends a run to its tracking services after its end, if they were away until then."""

from __future__ import annotations

import logging
from pathlib import Path

from ctrdist.errors import ConfigError
from ctrdist.tracking.events import EVENTS_NAME, EventLog, Finish, all_events
from ctrdist.tracking.services import SERVICES, Writer

log = logging.getLogger(__name__)


def end_killed(run_dir: str, reason: str) -> None:
    """Ends a run as killed if its process was killed before it could do so.

    Args:
        run_dir: the run's directory; no process trains it any more.
        reason: becomes the summary's `stopped`.
    """
    path = Path(run_dir) / EVENTS_NAME
    if not path.exists():
        return
    kind = ""
    for event in all_events(path):
        kind = event.kind
    if kind == "finish":
        return
    events = EventLog(path)
    events.record(Finish(status="KILLED", summary={"stopped": reason}))
    events.close()
    if any(service.reopen(Path(run_dir)) for service in SERVICES.values()):
        try:
            replay(run_dir)
        except ConfigError as error:
            log.warning("%s", error)


def replay(run_dir: str) -> str:
    """Sends the events that tracking services lack, in the foreground; sends nothing twice.

    Args:
        run_dir: the run's directory. The run may be over or not.

    Returns:
        The first service's id of the run.

    Raises:
        ConfigError: no run is there, it was recorded without a service, or a service does not
            answer or refuses something.
    """
    ids = [
        _send(run_dir, name, writer)
        for name, service in SERVICES.items()
        if (writer := service.reopen(Path(run_dir))) is not None
    ]
    if not ids:
        files = ", ".join(service.state_file for service in SERVICES.values())
        raise ConfigError(
            f"{run_dir}: no {files} there. Give the directory of a run that was started with "
            "tracking.mlflow true."
        )
    return ids[0]


def _send(run_dir: str, name: str, writer: Writer) -> str:
    try:
        writer.send()
        writer.send_refused()
    except ImportError as error:
        raise ConfigError(f"{run_dir}: {name} is not installed here; install it.") from error
    except Exception as error:
        raise ConfigError(
            f"{run_dir}: {name} at {writer.address} fails: {error}. {writer.hint}, and try again."
        ) from error
    if writer.refused:
        raise ConfigError(
            f"{run_dir}: {name} at {writer.address} has this run but refuses {writer.refused} of "
            f"{EVENTS_NAME}. Correct what it names there, such as a missing file, and try again."
        )
    assert writer.run_id is not None
    return writer.run_id
