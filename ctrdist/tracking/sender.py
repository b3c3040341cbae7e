"""Sends a run to its tracking services: in a thread while it trains, or again after its end."""

import logging
import shlex
import threading
import time
from pathlib import Path

from ctrdist.errors import ConfigError
from ctrdist.tracking.events import EVENTS_NAME, EventLog, Finish, all_events
from ctrdist.tracking.mlflow_writer import MlflowWriter

log = logging.getLogger(__name__)

SERVICES: dict[str, type[MlflowWriter]] = {"MLflow": MlflowWriter}
"""Name → writer of a tracking service. The first one that a run uses gives the run its id."""
_POLL_SECONDS = 1.0
"""Time that a recorded event waits to be sent together with others."""
RETRY_SECONDS = 30.0
"""Least time between two attempts while the service does not answer."""
_NO_ANSWER, _NO_CONNECTION = "no answer in time", "no connection"
_HEALTHY_WAIT, _FAILING_WAIT = 30.0, 15.0
"""Seconds that `close` waits at most for a service that answers, and for one that fails."""


class Sender(threading.Thread):
    """Follows events.jsonl until it is closed. It is a daemon, so it never holds up the exit."""

    def __init__(
        self,
        service: str,
        writer: MlflowWriter,
        run_dir: Path,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        """Does not start yet. The writer belongs to this thread from `start` on.

        While the service does not answer, two attempts are at least so many seconds apart.
        """
        super().__init__(name=f"{service.lower()}-sender", daemon=True)
        self.service, self.writer = service, writer
        self._run_dir = run_dir
        self._retry_seconds = retry_seconds
        self._next_attempt = 0.0
        self._failing = self._warned = False
        self._attempted, self._closing = threading.Event(), threading.Event()

    def run(self) -> None:
        """Polls, sends and retries."""
        while not self._closing.wait(_POLL_SECONDS if self._attempted.is_set() else 0):
            if time.monotonic() >= self._next_attempt:
                self._attempt()
        self._attempt(last=True)

    def run_id(self, seconds: float) -> str | None:
        """The service's run id; None if the service fails or takes longer than this."""
        if self.is_alive():
            self._attempted.wait(seconds)
        return self.writer.run_id

    def close(self) -> bool:
        """Sends what is left, within limits of time; returns True if the service has everything.

        Warns if it has not, unless a warning was given before.
        """
        began = time.monotonic()
        self._closing.set()
        while self.is_alive():
            if time.monotonic() - began > (_FAILING_WAIT if self._failing else _HEALTHY_WAIT):
                break
            self.join(0.05)
        complete = not self.writer.pending and not self.writer.refused
        if not complete:
            self._warn("has not got all of this run.")
        return complete

    def _attempt(self, last: bool = False) -> None:
        try:
            if self.writer.pending:
                self.writer.send()
                if self._failing:
                    log.info("%s answers again and has everything recorded so far", self.service)
            if last and self.writer.refused:
                self.writer.send_refused()
            self._failing = False
        except Exception as error:  # No failure of tracking may stop training.
            self._failing = True
            self._next_attempt = time.monotonic() + self._retry_seconds
            self._warn(
                f"fails: {_reason(error)}. The run continues, and it is tried again every "
                f"{self._retry_seconds:.0f} s."
            )
        finally:
            self._attempted.set()

    def _warn(self, what: str) -> None:
        """Warns once, and names the command that sends what is missing after the run's end."""
        if not self._warned:
            self._warned = True
            log.warning(
                "%s at %s %s %s has everything; after the run `%s` sends what is missing.",
                self.service,
                self.writer.address,
                what,
                self._run_dir / EVENTS_NAME,
                replay_command(self._run_dir),
            )


def replay_command(run_dir: str | Path) -> str:
    """The command line that sends a run to its tracking services."""
    return f"python jobs/replay.py --run {shlex.quote(str(run_dir))}"


def _reason(error: BaseException) -> str:
    """Shortens the text of an error: MLflow's for a server that is away fills three lines."""
    text = str(error).strip().rstrip(".") or type(error).__name__
    if "error code 401" in text or "error code 403" in text:
        return (
            f"it refuses the credentials (HTTP {text.partition('error code ')[2][:3]}); give "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    kinds = ""
    cause: BaseException | None = error
    while cause is not None:
        kinds += type(cause).__name__
        cause = cause.__cause__ or cause.__context__
    if "timed out" in text or "Timeout" in kinds:
        return _NO_ANSWER
    return _NO_CONNECTION if "Connection" in kinds else text.splitlines()[0][:300]


def end_killed(run_dir: str, reason: str) -> None:
    """Ends a run that no process trains any more as killed, if it could not do so itself.

    The reason becomes the summary's `stopped`.
    """
    path = Path(run_dir) / EVENTS_NAME
    if not path.exists() or [event.kind for event in all_events(path)][-1:] == ["finish"]:
        return
    events = EventLog(path)
    events.record(Finish(status="KILLED", summary={"stopped": reason}))
    events.close()
    if any(service.reopen(Path(run_dir)) for service in SERVICES.values()):
        try:
            replay(run_dir)
        except ConfigError as error:
            log.warning("%s", error)


def replay(run_dir: str, address: str = "") -> str:
    """Sends the events that tracking services lack, in the foreground; sends nothing twice.

    The run may be over or not. An address replaces that of the service. The result is the first
    service's id of the run.

    Raises:
        ConfigError: no run is there, it was recorded without a service, or a service does not
            answer or refuses something.
    """
    opened = {name: service.reopen(Path(run_dir), address) for name, service in SERVICES.items()}
    ids = [_send(run_dir, name, writer) for name, writer in opened.items() if writer is not None]
    if not ids:
        files = ", ".join(service.state_file for service in SERVICES.values())
        raise ConfigError(
            f"{run_dir}: no {files} there. Give the directory of a run that was started with "
            "tracking.mlflow true."
        )
    return ids[0]


def _send(run_dir: str, name: str, writer: MlflowWriter) -> str:
    try:
        writer.send()
        writer.send_refused()
    except ImportError as error:
        raise ConfigError(f"{run_dir}: {name} is not installed here; install it.") from error
    except Exception as error:
        reason = _reason(error)
        hint = f" {writer.hint}." if reason in (_NO_ANSWER, _NO_CONNECTION) else ""
        raise ConfigError(
            f"{run_dir}: {name} at {writer.address} fails: {reason}.{hint}"
        ) from error
    if writer.refused:
        raise ConfigError(
            f"{run_dir}: {name} at {writer.address} has this run but refuses {writer.refused} of "
            f"{EVENTS_NAME}. Correct what it names there, such as a missing file, and try again."
        )
    assert writer.run_id is not None
    return writer.run_id
