"""Starts Ray, or joins the cluster that is there: :func:`connect`, once per job that needs Ray."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from pathlib import Path
from typing import Any

from ctrdist.errors import ConfigError

log = logging.getLogger(__name__)

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

    Raises:
        ConfigError: RAY_ADDRESS names no cluster that answers.
    """
    # Its new behaviour, without the warning that it is new.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray  # here: `--help` must not wait for it

    if ray.is_initialized():
        return
    main = threading.current_thread() is threading.main_thread()
    on_terminate = signal.getsignal(signal.SIGTERM)
    _init(num_cpus, worker_output)
    if main:  # Ray's own handler aborts the process before it has cleaned up
        signal.signal(signal.SIGTERM, on_terminate)


def _init(num_cpus: int | None, worker_output: bool) -> None:
    import ray

    if not worker_output:
        _silence_raylet()
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": worker_output}
    address = os.environ.get("RAY_ADDRESS", "")
    if address not in ("", "local"):
        _check_reachable(address)
        # A submitted job brings its working directory to every node; a driver started by hand
        # names the root, which must then be at the same place on every node.
        path = {"env_vars": {"PYTHONPATH": _project_on_path()}}
        there = {} if _JOB_CONFIG in os.environ else path
        ray.init(address="auto", runtime_env=there, **quiet)
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Inherited by all that Ray starts. In a runtime environment it would mean that workers which
    # Ray starts beforehand are of no use, and others have to be started.
    os.environ["PYTHONPATH"] = _project_on_path()
    ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, **quiet)


def _silence_raylet() -> None:
    """Keeps Ray's paragraph about each dead worker, printed to stdout, for the debug log.

    Ray has no switch for it. Who starts workers says in a line what became of them.
    """
    from ray._private import worker

    def to_log(data: dict[str, Any], ignore_prefix: bool) -> None:
        log.debug("%s", " ".join(data["lines"]))

    worker.print_to_stdstream = to_log


def _project_on_path() -> str:
    """PYTHONPATH with which workers can import the project."""
    there = [
        path
        for path in os.environ.get("PYTHONPATH", "").split(os.pathsep)
        if path and path != str(ROOT)
    ]
    return os.pathsep.join([str(ROOT), *there])


def _check_reachable(address: str) -> None:
    """Ray itself tries for minutes to reach a cluster that is not there."""
    host, _, port = address.rpartition(":")
    advice = (
        "Give the address of its head, such as 10.0.0.5:6379, or unset RAY_ADDRESS to start a Ray "
        "on this machine."
    )
    if address.startswith("http"):
        raise ConfigError(
            f"RAY_ADDRESS={address} is the job server of a cluster: `ray job submit` takes that, "
            f"a job started by hand does not. {advice}"
        )
    if not port.isdigit() or "/" in host:
        return  # auto, or a form that Ray knows better
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise ConfigError(
            f"RAY_ADDRESS={address}: no Ray cluster answers there ({error}). {advice}"
        ) from error
