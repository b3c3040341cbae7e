"""Sends recorded runs to MLflow, which lacks them because its server was away or refused them.

python jobs/replay.py --run runs/first --tracking_uri http://10.0.0.5:5000

What MLflow has already is not sent again, so the command may be repeated. See docs/tracking.md.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ctrdist.config.paths import IS_PATH
from ctrdist.errors import ConfigError, ResourceError
from jobs.console.cli import call, required, run


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """Runs to send."""

    run: str = field(default="", metadata=IS_PATH)
    """Directory of a run, or of several runs."""
    tracking_uri: str = ""
    """Address of MLflow; empty: MLFLOW_TRACKING_URI, or the address at which the run began."""


def main(config: ReplayConfig) -> dict[str, Any]:
    """Sends the runs, and says which MLflow has now."""
    required(config, run="DIR")
    from ctrdist.log import setup

    setup(0)
    from ctrdist.tracking import replay
    from ctrdist.tracking.address import check_address
    from ctrdist.tracking.mlflow_writer import STATE_NAME

    check_address(config.tracking_uri, "--tracking_uri ")
    folder = Path(config.run)
    within = sorted(state.parent for state in folder.glob(f"*/{STATE_NAME}"))
    sent, failed = {}, []
    for path in within or [folder]:
        try:
            sent[path.name] = replay(str(path), config.tracking_uri)
            print(f"{path}: MLflow has all of it, as run {sent[path.name]}", flush=True)
        except ConfigError as error:
            failed.append(str(error))
            if within:
                print(error, file=sys.stderr, flush=True)
    if failed:
        of = f"{len(failed)} of {len(within)} runs were not sent. " if within else ""
        raise ResourceError(f"{of}{failed[0]}")
    return {"sent": sent}


if __name__ == "__main__":
    run(lambda: call(main, ReplayConfig, __doc__))
