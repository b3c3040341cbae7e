"""MLflow's address."""

import os
import re
from pathlib import Path

from ctrdist.errors import ConfigError

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://|/|file:|databricks")


def without_credentials(uri: str) -> str:
    """The URI without user and password, for logs and files."""
    return re.sub(r"(://)[^/@]*@", r"\1", uri)


def check_address(uri: str, given_as: str = "MLFLOW_TRACKING_URI=") -> None:
    """Refuses an address that MLflow would take for a local folder or for an unknown scheme.

    Raises:
        ConfigError: the address has no scheme; the message begins with how it was given.
    """
    if uri and not _ADDRESS.match(uri):
        shown = uri.rpartition("@")[2]  # without user and password
        raise ConfigError(
            f"{given_as}{shown} has no scheme. Give http://{shown} or https://{shown} for a "
            "server, or sqlite:////absolute/path/mlflow.db for a file."
        )


def tracking_store(runs_dir: Path) -> tuple[str, str | None]:
    """MLflow's URI and its artifacts: MLFLOW_TRACKING_URI, else SQLite and a folder in runs_dir."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri:
        return uri, None
    runs_dir = runs_dir.resolve()
    return f"sqlite:///{runs_dir / 'mlflow.db'}", (runs_dir / "mlartifacts").as_uri()
