"""The thread that talks to a tracking service. It follows events.jsonl, so training never waits."""

from __future__ import annotations

import logging
import threading
import time

from ctrdist.tracking.services import Writer

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
"""Time that a recorded event waits to be sent together with others."""
RETRY_SECONDS = 30.0
"""Least time between two attempts while the service does not answer."""
HEALTHY_WAIT, FAILING_WAIT = 30.0, 15.0
"""Seconds that `close` waits at most for a service that answers, and for one that fails."""


class Sender(threading.Thread):
    """Sends events until it is closed. It is a daemon, so it never holds up the exit."""

    def __init__(self, service: str, writer: Writer, retry_seconds: float = RETRY_SECONDS) -> None:
        """Does not start yet.

        Args:
            service: name of the service, for messages.
            writer: belongs to this thread from `start` on.
            retry_seconds: least time between two attempts while the service does not answer.
        """
        super().__init__(name=f"{service.lower()}-sender", daemon=True)
        self.service = service
        self.writer = writer
        self._failing = False
        self._retry_seconds = retry_seconds
        self._next_attempt = 0.0
        self._wake = threading.Event()
        self._closing = False
        self._warned = False
        self._attempted = threading.Event()

    def run(self) -> None:
        """Polls, sends and retries."""
        while True:
            closing = self._closing  # Read before the attempt, which then covers all events.
            if closing or time.monotonic() >= self._next_attempt:
                self._attempt(closing)
            if closing:
                return
            self._wake.wait(POLL_SECONDS)

    def run_id(self, seconds: float) -> str | None:
        """The service's run id; None if the service fails or takes longer than this."""
        if self.is_alive():
            self._attempted.wait(seconds)
        return self.writer.run_id

    def close(self) -> bool:
        """Sends what is left, within limits of time; returns True if the service has everything."""
        began = time.monotonic()
        self._closing = True
        self._wake.set()
        while self.is_alive():
            if time.monotonic() - began > (FAILING_WAIT if self._failing else HEALTHY_WAIT):
                break
            self.join(0.05)
        return not self.writer.pending and not self.writer.refused

    def _attempt(self, last: bool) -> None:
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
            if not self._warned:
                self._warned = True
                log.warning(
                    "%s at %s fails: %s. Training goes on, events.jsonl in the run's directory "
                    "has everything; trying again every %.0f s.",
                    self.service,
                    self.writer.address,
                    _reason(error),
                    self._retry_seconds,
                )
        finally:
            self._attempted.set()


def _reason(error: BaseException) -> str:
    """Shortens the text of an error: MLflow's for a server that is away fills three lines."""
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
