"""Starts a Ray on this machine, or joins a running cluster: see :func:`connect`."""

import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ctrdist.errors import ConfigError, ResourceError

ROOT = Path(__file__).resolve().parents[1]
_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets this variable in a process that `ray job submit` started."""
_log = logging.getLogger(__name__)
_STARTS = 2
"""Attempts to start Ray."""
_FOR_WORKERS = ("MLFLOW_", "AWS_", "FSSPEC_")
"""Beginnings of the names of variables that the workers of a cluster get from the driver."""
_QUIET: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}


def connect(num_cpus: int | None = None) -> None:
    """Connects this process to Ray; does nothing if it is connected.

    With RAY_ADDRESS set, as in a job of `ray job submit`, the process joins that cluster.
    Otherwise it starts a Ray of its own on this machine, which ends with the process. It does not
    join a cluster that merely happens to run here.

    Args:
        num_cpus: CPUs that the Ray of this process offers; None: all. A cluster has its own.

    Raises:
        ConfigError: no cluster answers at RAY_ADDRESS or lets this process join, or Ray's directory
            for temporary files cannot be used.
        ResourceError: Ray does not start.
    """
    # opts into Ray's new behaviour, which it otherwise announces in a warning
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray  # here, because `--help` must not wait for it

    if ray.is_initialized():
        return
    from cluster.ray_internals import log_dead_workers

    log_dead_workers()
    on_terminate = signal.getsignal(signal.SIGTERM)
    if is_own():
        start_local(num_cpus)
    else:
        _join(os.environ["RAY_ADDRESS"])
    if threading.current_thread() is threading.main_thread():
        # Ray's own handler aborts the process before it has cleaned up
        signal.signal(signal.SIGTERM, on_terminate)


def is_own() -> bool:
    """Tells if :func:`connect` starts a Ray of its own, which ends with the process."""
    return os.environ.get("RAY_ADDRESS", "") in ("", "local")


def start_local(num_cpus: int | None, *, job_api: bool = False) -> str:
    """Starts a Ray that listens on the loopback interface only and asks for a token.

    It offers `num_cpus` CPUs, or all. With `job_api` it has a dashboard, which accepts submitted
    jobs. Returns the dashboard's host and port; empty without one.
    """
    # Ray passes the environment to all processes that it starts. Variables in a runtime
    # environment would make Ray start the workers twice.
    os.environ.update(
        PYTHONPATH=_project_on_path(),
        RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",  # see bind_to_loopback
        RAY_prestart_worker_first_driver="0",  # workers start when the first task needs them
    )
    # Ray asks for a token unless the mode is set, and reads the mode when it is imported only
    os.environ.pop("RAY_AUTH_MODE", None)
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    from cluster.ray_internals import bind_to_loopback, start_without_helpers

    bind_to_loopback()
    start_without_helpers()
    for attempt in range(1, _STARTS + 1):
        try:
            context = ray.init(
                address="local",
                num_cpus=num_cpus,
                include_dashboard=job_api,
                dashboard_host="127.0.0.1",
                dashboard_port=0,
                **_QUIET,
            )
            break
        except Exception as error:  # Ray has no class for it, and its limit of 30 s is fixed
            ray.shutdown()
            if attempt == _STARTS or "timed out during startup" not in str(error):
                raise _not_started(error) from error
            _log.warning("Ray did not start within 30 s on this busy machine; trying again.")
    return context.dashboard_url or ""


def _not_started(error: Exception) -> ConfigError | ResourceError:
    """The message for a Ray that does not start on this machine."""
    from cluster.ray_internals import temporary_directory

    folder, text = temporary_directory(), _one_line(error)
    advice = "Set RAY_TMPDIR to a short path of a directory on a local disk, such as /tmp."
    if "AF_UNIX" in text:
        return ConfigError(
            f"Ray cannot start in {folder}: its sockets there would have paths of more than 107 "
            f"bytes, the most that the system allows. {advice}"
        )
    if isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError):
        return ConfigError(f"Ray cannot start in {folder}: {text}. {advice}")
    return ResourceError(
        f"Ray does not start on this machine: {text}. Its logs are in "
        f"{folder}/session_latest/logs. Free memory or CPUs and try again, or train with "
        "--workers 1, which does without Ray."
    )


def _join(address: str) -> None:
    import ray

    _check_reachable(address)
    # A submitted job brings its working directory to every node. A driver that was started by hand
    # passes the path of the project, which must be the same on every node.
    environment: dict[str, Any] = {"worker_process_setup_hook": _set_variables_of_driver()}
    if _JOB_CONFIG not in os.environ:
        environment["env_vars"] = {"PYTHONPATH": _project_on_path()}
    try:
        ray.init(address="auto", runtime_env=environment, **_QUIET)
    except Exception as error:
        raise ConfigError(
            f"RAY_ADDRESS={address}: this process cannot join the cluster ({_one_line(error)}). If "
            "the cluster asks for a token, set RAY_AUTH_MODE=token, and give the token in "
            "RAY_AUTH_TOKEN or ~/.ray/auth_token. Otherwise compare the versions of Ray and "
            "Python here with those of the cluster."
        ) from error


def _set_variables_of_driver() -> Callable[[], None]:
    """A function that sets the driver's variables of MLflow and S3 in a worker of the cluster.

    They may be secrets. Ray shows the `env_vars` of a runtime environment to all users of its
    dashboard, but only the name of a function.
    """
    variables = {k: v for k, v in os.environ.items() if k.startswith(_FOR_WORKERS)}

    def set_variables() -> None:
        os.environ.update(variables)

    return set_variables


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


def _project_on_path() -> str:
    """PYTHONPATH with which workers can import the project."""
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join([str(ROOT), *(path for path in paths if path not in ("", str(ROOT)))])


def _check_reachable(address: str) -> None:
    """Fails soon if there is no cluster; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    advice = (
        "Give the address of its head, such as 10.0.0.5:6379, or unset RAY_ADDRESS to start a Ray "
        "on this machine."
    )
    if address.startswith("http"):
        raise ConfigError(
            f"RAY_ADDRESS={address} is the job server of a cluster. `ray job submit` takes that "
            f"address; a job that is started by hand does not. {advice}"
        )
    if not port.isdigit() or "/" in host:
        return  # "auto", or another form that Ray checks itself
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise ConfigError(
            f"RAY_ADDRESS={address}: no Ray cluster answers there ({error}). {advice}"
        ) from error
