"""ray_cluster.yaml is held to the schema of the Ray that is installed, with Ray's own functions."""

import copy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())


def test_passes_rays_own_validation(cluster):
    validate_config(prepare_config(cluster))


def test_validation_would_notice_an_unknown_key(cluster):
    broken = copy.deepcopy(cluster)
    broken["available_node_types"]["cpu_worker"]["minimum_workers"] = 1
    with pytest.raises(jsonschema.ValidationError, match="minimum_workers"):
        validate_config(prepare_config(broken))


def test_workers_scale_between_bounds_within_the_clusters_limit(cluster):
    workers = {
        name: node
        for name, node in cluster["available_node_types"].items()
        if name != cluster["head_node_type"]
    }
    assert workers
    for name, node in workers.items():
        assert 0 <= node["min_workers"] <= node["max_workers"] <= cluster["max_workers"], name


def test_nothing_but_our_own_commands_runs(cluster):
    """What is not given here comes from Ray's defaults, which install Ray's nightly wheel."""
    prepared = prepare_config(copy.deepcopy(cluster))
    assert prepared["setup_commands"] == cluster["setup_commands"]
    assert "make setup" in " ".join(prepared["setup_commands"])  # installs requirements.lock
    installs = [c for c in prepared["head_setup_commands"] if "pip install" in c]
    assert all("-c requirements.lock" in c for c in installs), installs


def test_every_node_asks_for_the_token(cluster):
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        starts = [c for c in cluster[commands] if "ray start" in c]
        assert starts and all("RAY_AUTH_MODE=token" in c for c in starts)
        assert not any("0.0.0.0" in c for c in starts)  # the dashboard is reached by tunnel only
