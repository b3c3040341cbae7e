"""Everything that the project uses of Ray and that Ray does not declare public.

Written for Ray 2.60; tests/unit/cluster/test_ray_internals.py fails where a later version differs.
"""

from __future__ import annotations

import logging
from typing import Any

# A worker that died or does not answer. Ray Train raises it, but exports no name for it.
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

# Its hook before workers are replaced has no public counterpart.
from ray.train.v2._internal.execution.callback import ControllerCallback

__all__ = [
    "ControllerCallback",
    "WorkerHealthCheckFailedError",
    "bind_to_loopback",
    "draining_nodes",
    "log_dead_workers",
]

log = logging.getLogger(__name__)


def bind_to_loopback() -> None:
    """Makes a Ray that this process starts use 127.0.0.1 as the address of its node.

    ray.init() replaces a loopback address that it is given. The switch, made for macOS and Windows,
    is read from the environment when Ray is imported, which may have happened already.
    """
    from ray._private import ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = False


def draining_nodes() -> set[str]:
    """Ids of the nodes that are about to leave the cluster."""
    from ray._private.state import state

    return set(state.get_draining_nodes() or {})


def log_dead_workers() -> None:
    """Sends Ray's paragraphs about dead workers to the debug log instead of stdout.

    Ray has no switch for it. The run monitor reports failed workers in one line each.
    """
    from ray._private import worker

    def to_log(data: dict[str, Any], ignore_prefix: bool) -> None:
        log.debug("%s", " ".join(data["lines"]))

    worker.print_to_stdstream = to_log
