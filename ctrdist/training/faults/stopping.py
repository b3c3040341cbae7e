"""Ends training between two steps, with a checkpoint, when somebody asks for it."""

import signal


class Interrupted(SystemExit):
    """Training has ended as it was asked to, after writing a checkpoint.

    Its exit code is that of a process which a signal has ended: 128 + signal.
    """

    def __init__(self, step: int, signum: int) -> None:
        super().__init__(128 + signum)
        self.step = step

    def __str__(self) -> str:
        return interrupted_text(self.step)


class StopRequest:
    """A request to this worker to end training; any thread or signal handler may make it.

    A request to one worker ends all of them after the same step: the requests are summed over the
    workers together with the loss.
    """

    def __init__(self) -> None:
        self.signum = 0
        """Number of the signal that asked; 0 before any."""

    def ask(self, signum: int = signal.SIGTERM) -> None:
        """Makes the request; a second one changes nothing."""
        self.signum = self.signum or int(signum)

    def listen(self, *signums: int) -> None:
        """Makes these signals ask, instead of what they did before; only in the main thread."""
        for signum in signums:
            signal.signal(signum, lambda received, _: self.ask(received))


def interrupted_text(step: int) -> str:
    """Message about an interrupted run."""
    return f"interrupted at step {step:,}; start again under the same name to go on"
