"""The tracking services that runs are sent to: one entry of a table holds all about one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ctrdist.config.experiment import TrackingConfig
from ctrdist.tracking.mlflow_state import STATE_NAME
from ctrdist.tracking.mlflow_writer import MlflowWriter


class Writer(Protocol):
    """Sends one run's events to one service. Only one thread at a time may use it."""

    address: str
    """Address of the service, without credentials."""

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


@dataclass(frozen=True, kw_only=True)
class Service:
    """A tracking service."""

    package: str
    """Python package that must be installed."""
    state_file: str
    """File in a run's directory that tells which part of the events was sent."""
    hint: str
    """Advice for a service that does not answer."""
    enabled: Callable[[TrackingConfig], bool]
    open: Callable[[Path, Path, str, TrackingConfig], Writer]
    """(run's directory, directory of all runs, run's name, settings) → its writer."""
    reopen: Callable[[Path], Writer | None]
    """Run's directory → its writer; None if the run was recorded without this service."""


SERVICES: dict[str, Service] = {
    "MLflow": Service(
        package="mlflow",
        state_file=STATE_NAME,
        hint="Start it, or set MLFLOW_TRACKING_URI to one that runs",
        enabled=lambda config: config.mlflow,
        open=MlflowWriter.open,
        reopen=MlflowWriter.reopen,
    ),
}
"""Name → service. The first one that a run uses gives the run its id."""
