"""Everything that the project uses of Ray and that Ray does not declare public.

Written for Ray 2.60; tests/unit/cluster/test_ray_internals.py fails where a later version differs.
"""

import logging
from typing import Any

log = logging.getLogger(__name__)


def bind_to_loopback() -> None:
    """Makes a Ray that this process starts use 127.0.0.1 as the address of its node.

    ray.init() replaces a loopback address that it is given. The switch, made for macOS and Windows,
    is read from the environment when Ray is imported, which may have happened already.
    """
    from ray._private import ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = False


def start_without_helpers() -> None:
    """Makes a Ray that this process starts leave out the helper processes that nothing uses here.

    The autoscaler's monitor and the log monitor serve clusters. Without include_dashboard, the
    dashboard's process would run without its pages. ray.init() starts all three whatever its
    arguments are, which takes two of its five seconds on two cores.
    """
    from ray._private import node

    ray_node: Any = node.Node
    start_api_server = ray_node.start_api_server

    def start_if_included(self: Any, *, include_dashboard: bool, raise_on_failure: bool) -> None:
        self._webui_url = ""
        if include_dashboard:
            start_api_server(
                self, include_dashboard=include_dashboard, raise_on_failure=raise_on_failure
            )

    ray_node.start_monitor = lambda self: None
    ray_node.start_log_monitor = lambda self: None
    ray_node.start_api_server = start_if_included


def temporary_directory() -> str:
    """The directory in which a Ray that this process starts keeps its sockets and logs."""
    from ray._common.utils import get_default_ray_temp_dir

    return get_default_ray_temp_dir()


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
