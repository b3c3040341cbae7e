"""A run on a cluster of several nodes, of which some go and others come."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.datasets import write_dataset
from tests.faults import Job

ROWS = 6001
pytestmark = pytest.mark.slow


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head with one CPU; further nodes are added by the test."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data")
    write_dataset(path, {"train": ROWS, "valid": 300, "test": 300})
    return str(path)


def test_a_run_goes_on_with_the_workers_that_are_left(cluster, data, tmp_path):
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    settings = {"workers": 2, "min-workers": 1}
    job = Job(data, tmp_path, "a", settings, env={"RAY_ADDRESS": cluster.address})
    job.wait_for_step(33)
    cluster.remove_node(node, allow_graceful=False)
    result = job.result()
    assert result["workers"] == 1
    assert result["rows_seen"] == 2 * ROWS
    (told,) = [line for line in job.err.splitlines() if "start again" in line]
    assert told.startswith("worker ") and "(restart 1 of 3)" in told
    assert "2 workers on cpu" in job.err and "1 worker on cpu" in job.err
