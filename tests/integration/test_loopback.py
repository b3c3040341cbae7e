"""Jobs on one machine open no port to other machines, whatever they start.

The longer runs of test_train_job.py and test_compare.py are watched too.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.datasets import write_dataset
from tests.integration.test_train_job import MODEL, ROOT, SETTINGS
from tests.sockets import check_loopback, watched


def sockets(name: str, *arguments: str, **variables: str) -> set[tuple[str, str]]:
    """All sockets on which a job has listened that has ended well."""
    done, found = watched(name, *arguments, **variables)
    assert done.returncode == 0, done.stderr + done.stdout
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data")
    write_dataset(path, {"train": 2001, "valid": 300, "test": 301})
    return str(path)


def test_preprocessing(tmp_path):
    subprocess.run(
        [sys.executable, "jobs/make_log.py", "--output", f"{tmp_path}/log", "--rows", "2000"],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    inputs = [str(path) for path in sorted(Path(tmp_path, "log").glob("*.tsv"))]
    preset = ["--config", "jobs/configs/data/criteo.yaml"]
    arguments = [*preset, "--input", *inputs, "--output"]
    assert sockets("preprocess", *arguments, f"{tmp_path}/local") == set()
    found = sockets("preprocess", *arguments, f"{tmp_path}/ray", RAY_ADDRESS="local")
    check_loopback(found, "gcs_server", "raylet")


@pytest.mark.slow
def test_jobs_without_ray_listen_on_loopback_at_most(data, tmp_path):
    arguments = ["--data", data, "--runs", str(tmp_path), "--run-name", "a"]
    found = sockets("train_dlf", *arguments, "--train.epochs", "1", *MODEL)
    check_loopback(found, "python")  # gloo's
    check_loopback(sockets("evaluate", "--checkpoint", f"{tmp_path}/a"), "python")
    assert sockets("logistic_regression", "--data", data) == set()


@pytest.mark.slow
def test_a_search(data, tmp_path):
    space = "model: dlf\nspace: {optim.dense.lr: {loguniform: [0.0001, 0.01]}}\n"
    (tmp_path / "small.yaml").write_text(space)
    settings = json.dumps({**SETTINGS, "train.epochs": 1})
    arguments = ["--study", f"{tmp_path}/small.yaml", "--data", data, "--runs", str(tmp_path)]
    found = sockets("tune", *arguments, "--set", settings, "--trials", "2")
    check_loopback(found, "gcs_server", "raylet")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_demo(tmp_path):
    folders = ["--output", f"{tmp_path}/demo", "--runs", f"{tmp_path}/runs"]
    check_loopback(sockets("demo", *folders, "--rows", "20000"), "gcs_server", "raylet")
