"""Starts Ray, or joins the cluster that is there: :func:`connect`, once per job that needs Ray."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray inside an entry point of `ray job submit`


def connect(num_cpus: int | None = None, *, worker_output: bool = False) -> None:
    """Makes Ray ready; does nothing where it already is.

    With RAY_ADDRESS set, as it is inside a job of `ray job submit`, the driver joins that cluster.
    Otherwise it starts a quiet Ray of its own on this machine, which ends with the driver: it does
    not join a cluster that merely happens to run here.

    Args:
        num_cpus: CPUs that the embedded Ray offers, which bounds its tasks; None takes all.
            A cluster has its own.
        worker_output: whether what workers print is shown on the driver's terminal.
    """
    import ray  # here: `--help` must not wait for it

    if ray.is_initialized():
        return
    os.environ.setdefault(
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"
    )  # its new behaviour, without the warning
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": worker_output}
    if os.environ.get("RAY_ADDRESS"):
        # A submitted job brings its working directory to every node; a driver started by hand
        # names the root, which must then be at the same place on every node.
        ray.init(
            address="auto",
            runtime_env={} if _JOB_CONFIG in os.environ else _project_on_path(),
            **quiet,
        )
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(
        address="local",
        num_cpus=num_cpus,
        include_dashboard=False,
        runtime_env=_project_on_path(),
        **quiet,
    )


def _project_on_path() -> dict[str, dict[str, str]]:
    """Runtime environment in which workers can import the project."""
    there = [
        path
        for path in os.environ.get("PYTHONPATH", "").split(os.pathsep)
        if path and path != str(ROOT)
    ]
    return {"env_vars": {"PYTHONPATH": os.pathsep.join([str(ROOT), *there])}}
