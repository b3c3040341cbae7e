"""The private parts of Ray that cluster/ray_internals.py uses exist in the installed version."""

import inspect
import subprocess
import sys

import ray

from cluster import ray_internals, ray_train_internals


def test_the_version_is_the_one_that_the_file_was_written_for():
    assert ray.__version__.startswith("2.60.")


def test_a_node_address_becomes_a_loopback_address(monkeypatch):
    from ray._private import ray_constants, services

    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    ray_internals.bind_to_loopback()
    monkeypatch.setattr("ray._private.worker._global_node", None)
    assert services.get_node_ip_address() == "127.0.0.1"


def test_the_helper_processes_that_are_left_out_have_these_starters():
    program = """
import inspect
from ray._private.node import Node
for name in ("start_monitor", "start_log_monitor", "start_api_server"):
    print(*inspect.signature(getattr(Node, name)).parameters)
"""  # in a process where none of them is replaced yet
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split("\n")[:3] == [
        "self",
        "self",
        "self include_dashboard raise_on_failure",
    ], done.stderr


def test_draining_nodes_and_the_printer_of_dead_workers_exist():
    from ray._private import worker
    from ray._private.state import GlobalState

    assert list(inspect.signature(GlobalState.get_draining_nodes).parameters) == ["self"]
    parameters = list(inspect.signature(worker.print_to_stdstream).parameters)
    assert parameters == ["data", "ignore_prefix"]


def test_the_hook_before_a_resize_exists():
    hook = ray_train_internals.ControllerCallback.before_controller_execute_resize_decision
    assert list(inspect.signature(hook).parameters) == ["self", "resize_decision"]
