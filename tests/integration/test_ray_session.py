"""A Ray that cannot be started or joined is one message; a cluster's workers get variables."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.datasets import write_dataset
from tests.faults import ROOT, Job
from tests.mlflow_server import client, wait_until

TOKEN, SECRET = "0123456789abcdef" * 2, "a-secret-that-nobody-may-see"
CONNECT = "from jobs.console.cli import run; from cluster.session import connect; run(connect)"


def connect(**variables: str) -> subprocess.CompletedProcess[str]:
    """Starts or joins Ray in a process of its own, as each job does."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-c", CONNECT],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def only_message(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def test_a_directory_in_which_ray_cannot_start_is_one_message(tmp_path):
    long = tmp_path / ("long" * 20)
    line = only_message(connect(RAY_TMPDIR=str(long)))
    assert f"{long}/ray" in line and "107 bytes" in line and "Set RAY_TMPDIR" in line
    (tmp_path / "file").touch()
    line = only_message(connect(RAY_TMPDIR=str(tmp_path / "file")))
    assert "Not a directory" in line and "Set RAY_TMPDIR" in line


@pytest.mark.slow
def test_a_start_that_times_out_is_tried_once_more(tmp_path):
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_TMPDIR": folder}
        process = subprocess.Popen(
            [sys.executable, "-c", CONNECT],
            cwd=ROOT,
            env=environment,
            stderr=(tmp_path / "err").open("w"),
        )
        raylets = []
        deadline = time.monotonic() + 60
        while not raylets:  # stopped before it has registered, so the start times out
            children = psutil.Process(process.pid).children(recursive=True)
            raylets = [child for child in children if child.name() == "raylet"]
            assert time.monotonic() < deadline
        raylets[0].suspend()
        assert process.wait(200) == 0
        assert (tmp_path / "err").read_text().count("Ray did not start within 30 s") == 1


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[dict[str, str], Path]]:
    """A cluster of one node that asks for a token: RAY_ADDRESS, and its directory."""
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        without = ("RAY_", "MLFLOW_", "AWS_")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(without)}
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
        # keeps Ray, here and in drivers, from replacing 127.0.0.1 by another address of the machine
        loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
        environment |= {**loopback, "PYTHONPATH": str(ROOT)}
        ray = str(Path(sys.executable).with_name("ray"))
        options = ["--node-ip-address=127.0.0.1", "--port=0", f"--temp-dir={folder}"]
        options += ["--num-cpus=3", "--include-dashboard=false", "--disable-usage-stats", "--block"]
        with Path(folder, "out").open("w") as out:
            process = subprocess.Popen(
                [ray, "start", "--head", *options],
                env=environment,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        try:
            address = Path(folder, "ray_current_cluster")
            wait_until(lambda: "--block" in Path(folder, "out").read_text(), 100)
            yield {**loopback, "RAY_ADDRESS": address.read_text().strip()}, Path(folder)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.parametrize(
    "variables",
    [{}, {"RAY_AUTH_MODE": "token"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "x" * 32}],
)
def test_a_cluster_that_asks_for_a_token_is_one_message(cluster, variables, tmp_path):
    done = connect(**cluster[0], HOME=str(tmp_path), **variables)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    line = done.stderr.splitlines()[-1]  # Ray's own warnings may come before it
    assert line.startswith("error: RAY_ADDRESS=")
    assert "set RAY_AUTH_MODE=token, and give the token in RAY_AUTH_TOKEN" in line


def test_variables_of_the_driver_reach_the_workers_of_a_cluster_unseen(cluster, tmp_path):
    address, folder = cluster
    write_dataset(tmp_path / "data", {"train": 300, "valid": 100, "test": 100})
    uri = f"sqlite:///{tmp_path}/elsewhere.db"
    settings = {"workers": 2, "tracking.mlflow": True, "train.epochs": 1}
    variables = {**address, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    variables |= {"MLFLOW_TRACKING_URI": uri, "AWS_SECRET_ACCESS_KEY": SECRET}
    job = Job(str(tmp_path / "data"), tmp_path / "runs", "run", settings, env=variables)
    result = job.result()
    assert result["tracking_uri"] == uri and result["undelivered"] == []
    assert client(uri).get_run(result["run_id"]).info.status == "FINISHED"
    assert not (tmp_path / "runs" / "mlflow.db").exists()
    seen = [path for path in folder.rglob("*") if path.is_file() and SECRET in read(path)]
    assert seen == [] and SECRET not in job.out + job.err


def read(path: Path) -> str:
    return path.read_text(errors="replace")
