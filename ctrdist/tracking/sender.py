"""The one thread that talks to MLflow. It follows events.jsonl: training only writes a file."""

from __future__ import annotations

import logging
import threading
import time

from ctrdist.tracking.mlflow_writer import MlflowSink
from ctrdist.tracking.state import without_credentials

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
"""How long a recorded event waits to be sent together with others."""
RETRY_SECONDS = 30.0
"""Least time between two attempts while MLflow does not answer."""
HEALTHY_WAIT, FAILING_WAIT = 30.0, 15.0
"""Seconds that `finish` waits at most for MLflow."""


class Delivery(threading.Thread):
    """Delivers events until it is closed; a daemon, so it never holds up the exit."""

    def __init__(self, sink: MlflowSink, retry_seconds: float = RETRY_SECONDS) -> None:
        """Does not start yet.

        Args:
            sink: what to deliver with; belongs to this thread from `start` on.
            retry_seconds: least time between two attempts while MLflow does not answer.
        """
        super().__init__(name="mlflow-delivery", daemon=True)
        self.failing = False
        """Whether the last attempt failed."""
        self._sink = sink
        self._retry_seconds = retry_seconds
        self._next_attempt = 0.0
        self._wake = threading.Event()
        self._closing = False
        self._warned = False
        self._attempted = threading.Event()

    def run(self) -> None:
        """Polls, delivers and retries."""
        while True:
            closing = self._closing  # before the attempt: it then covers all that was recorded
            if closing or time.monotonic() >= self._next_attempt:
                self._attempt(closing)
            if closing:
                return
            self._wake.wait(POLL_SECONDS)

    def wait_for_run_id(self, seconds: float) -> str | None:
        """MLflow's run id; None where MLflow fails or takes longer than this."""
        self._attempted.wait(seconds)
        return self._sink.state.run_id

    def close(self) -> bool:
        """Sends what is left, within limits of time.

        Returns:
            Whether MLflow has everything.
        """
        began = time.monotonic()
        self._closing = True
        self._wake.set()
        while self.is_alive():
            if time.monotonic() - began > (FAILING_WAIT if self.failing else HEALTHY_WAIT):
                break
            self.join(0.05)
        return not self._sink.pending and not self._sink.state.skipped

    def _attempt(self, last: bool) -> None:
        try:
            if self._sink.pending:
                self._sink.deliver()
                if self.failing:
                    log.info("MLflow answers again and has everything recorded so far")
            if last and self._sink.state.skipped:
                self._sink.deliver_skipped()
            self.failing = False
        except Exception as error:  # whatever it is: tracking never stops training
            self.failing = True
            self._next_attempt = time.monotonic() + self._retry_seconds
            if not self._warned:
                self._warned = True
                uri = without_credentials(self._sink.tracking_uri)
                log.warning(
                    "MLflow at %s fails: %s. Training goes on, events.jsonl in the run's directory "
                    "has everything; trying again every %.0f s.",
                    uri,
                    _reason(error),
                    self._retry_seconds,
                )
        finally:
            self._attempted.set()


def _reason(error: BaseException) -> str:
    """In a few words: MLflow's own text for a server that is away fills three lines."""
    text = str(error).strip() or type(error).__name__
    kinds: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        kinds.append(type(cause).__name__)
        cause = cause.__cause__ or cause.__context__
    if "timed out" in text or any("Timeout" in kind for kind in kinds):
        return "no answer in time"
    if any("Connection" in kind for kind in kinds):
        return "no connection"
    return text.splitlines()[0][:300]
