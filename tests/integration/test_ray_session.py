"""A Ray that cannot be started is one message."""

import os
import subprocess
import sys
import tempfile
import time

import psutil
import pytest

from tests.faults import ROOT

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
