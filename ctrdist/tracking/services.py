"""The tracking services that runs are sent to. Each has a writer, which holds all about it."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Protocol, Self

from ctrdist.config.experiment import TrackingConfig
from ctrdist.tracking.mlflow_writer import MlflowWriter


class Writer(Protocol):
    """Sends one run's events to one service. Only one thread at a time may use it."""

    state_file: ClassVar[str]
    """File in a run's directory that tells which events were sent."""
    hint: ClassVar[str]
    """Advice for a service that does not answer."""
    address: str
    """Address of the service, without credentials."""

    @classmethod
    def open(
        cls, run_dir: Path, runs_dir: Path, run_name: str, config: TrackingConfig
    ) -> Self | None:
        """The writer of a run that starts, or starts again; None if it does without the service."""

    @classmethod
    def reopen(cls, run_dir: Path) -> Self | None:
        """The writer of a run that was recorded before; None if that was without this service."""

    @property
    def run_id(self) -> str | None:
        """The service's id of the run, once it has one."""

    @property
    def pending(self) -> bool:
        """True if there are events to send."""

    @property
    def refused(self) -> str:
        """Names the events that the service refused; empty if there are none."""

    def send(self) -> None:
        """Sends all events that are there now; raises an exception if the service fails."""

    def send_refused(self) -> None:
        """Sends the refused events once more."""


SERVICES: dict[str, type[Writer]] = {"MLflow": MlflowWriter}
"""Name → writer. The first one that a run uses gives the run its id."""
