"""mlflow_run.json: the MLflow run of a run directory, and which events were sent to it."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

STATE_NAME = "mlflow_run.json"


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


def without_credentials(uri: str) -> str:
    """The URI without user and password, for logs and files."""
    return re.sub(r"(://)[^/@]*@", r"\1", uri)


def tracking_store(runs_dir: Path) -> tuple[str, str | None]:
    """MLflow's URI and its artifacts: MLFLOW_TRACKING_URI, else SQLite and a folder in runs_dir."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri:
        return uri, None
    runs_dir = runs_dir.resolve()
    return f"sqlite:///{runs_dir / 'mlflow.db'}", (runs_dir / "mlartifacts").as_uri()
