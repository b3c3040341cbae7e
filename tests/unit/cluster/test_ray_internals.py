"""The private parts of Ray that cluster/ray_internals.py uses exist in the installed version."""

import inspect
import subprocess
import sys

import pytest
import ray
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy

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


@pytest.mark.parametrize("own_ray", [True, False])
def test_the_helper_actors_of_ray_train_that_are_left_out_are_there_otherwise(own_ray, monkeypatch):
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    def names(trainer: TorchTrainer) -> set[str]:
        return {type(each).__name__ for each in trainer._create_default_callbacks()}

    kept = {}
    monkeypatch.setattr(
        TorchTrainer, "_initialize_and_run_controller", lambda self, **given: kept.update(given)
    )
    options = {"scaling_config": ScalingConfig(num_workers=2)}
    trainer = ray_train_internals.Trainer(print, own_ray=own_ray, **options)
    unused = {"DatasetsCallback", *(["PlacementGroupCleanerCallback"] if own_ray else [])}
    assert names(TorchTrainer(print, **options)) - names(trainer) == unused
    policy = FixedScalingPolicy(scaling_config=trainer.scaling_config)
    trainer._initialize_and_run_controller(scaling_policy=policy)
    assert (kept["scaling_policy"] is policy) is not own_ray
    made = kept["scaling_policy"].make_decision_for_non_running_worker_group
    assert not own_ray or made().num_workers == 2  # without a coordinator to ask
