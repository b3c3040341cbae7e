"""Ends training between two steps, with a checkpoint, when somebody asks for it."""

from __future__ import annotations

import signal
import time


class Interrupted(SystemExit):
    """Training was asked to end and did so, after writing a checkpoint. Its code is the shell's."""

    def __init__(self, step: int, signum: int) -> None:
        super().__init__(128 + signum)
        self.step = step

    def __str__(self) -> str:
        return interrupted_text(self.step)


class StopRequest:
    """Whether this worker was asked to end; any thread or signal handler may ask.

    One asked worker ends all of them, after the same step: the trainer sums the requests over the
    workers together with the loss.
    """

    def __init__(self) -> None:
        self.signum = 0
        """Signal that asked; 0 as long as none did."""

    def ask(self, signum: int = signal.SIGTERM) -> None:
        """Asks; asking again changes nothing."""
        self.signum = self.signum or int(signum)

    def listen(self, *signums: int) -> None:
        """Lets these signals ask, in place of what they did before; only in the main thread."""
        for signum in signums:
            signal.signal(signum, lambda received, _: self.ask(received))


def interrupted_text(step: int) -> str:
    """What a person is told about an interrupted run."""
    return f"interrupted at step {step:,}; start again under the same name to go on"


class Timer:
    """When the next checkpoint is due by time. One worker's counts, so that all agree."""

    def __init__(self, seconds: float) -> None:
        """Starts.

        Args:
            seconds: between two checkpoints; 0: never due.
        """
        self._seconds = seconds
        self.restart()

    def restart(self) -> None:
        """A checkpoint has begun."""
        self._begun = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the time is over."""
        return 0 < self._seconds <= time.monotonic() - self._begun
