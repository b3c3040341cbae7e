"""jobs/describe.py, and the commands that it prints: they lead from a log to a trained model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.measuring.log_shapes import make
from tests.s3_server import S3Server

ROOT = Path(__file__).resolve().parents[2]


def bash(command: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs a command as a user does in the project's directory."""
    (folder / "jobs").exists() or (folder / "jobs").symlink_to(ROOT / "jobs")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **env},
    )


@pytest.mark.parametrize("trains", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_printed_commands_lead_to_a_model(trains, tmp_path):
    make("avazu", tmp_path / "my log", rows=1500)
    told = bash("python jobs/describe.py --input 'my log'/*.csv > clicks.yaml", tmp_path)
    assert told.returncode == 0, told.stderr
    preprocess, train = told.stderr.splitlines()[-2:]
    assert preprocess.split()[2:5] == ["--config", "clicks.yaml", "--input"]
    done = bash(preprocess, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / preprocess.split()[-1] / "manifest.json").exists()
    if trains:
        done = bash(f"{train} --train.max_steps 2", tmp_path)
        assert done.returncode == 0, done.stderr
        assert "AUC" in done.stdout


def test_a_log_on_s3_and_the_line_of_json(tmp_path):
    truth = make("spark", tmp_path / "s3/logs", rows=400)
    server = S3Server(tmp_path / "s3")
    server.start()
    command = "python jobs/describe.py --input s3://logs/out --output a.yaml --json"
    done = bash(command, tmp_path, **server.environment)
    again = bash(command, tmp_path, **server.environment)
    server.kill()
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["roles"] == truth.roles
    assert result["yaml"] == (tmp_path / "a.yaml").read_text()
    assert "--input s3://logs/out --output data/out" in done.stderr
    assert again.returncode == 2 and "the file exists" in again.stderr


def test_preprocessing_without_a_yaml_names_describe(tmp_path):
    done = bash("python jobs/preprocess.py --input a.csv --output b", tmp_path)
    assert done.returncode == 2
    assert "jobs/describe.py --input LOG > clicks.yaml" in done.stderr
