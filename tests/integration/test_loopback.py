"""Jobs on one machine open no port to other machines, whatever they start."""

import ipaddress
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.datasets import write_dataset
from tests.integration.test_train_job import MODEL, ROOT, SETTINGS


def listening_inodes() -> dict[str, str]:
    """Inode → address of each TCP socket of this machine on which a process listens."""
    found = {}
    for family in ("tcp", "tcp6"):
        for line in Path("/proc/net", family).read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A":
                words = bytes.fromhex(local.split(":")[0])
                octets = b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4))
                found[inode] = str(ipaddress.ip_address(octets))
    return found


def owners(process: psutil.Process, inodes: dict[str, str]) -> set[tuple[str, str]]:
    """(Process name, address) of those sockets that belong to a process or its descendants."""
    found = set()
    for each in [process, *process.children(recursive=True)]:
        try:
            if each.name() == "gcs_server":
                environment = each.environ()  # empty while the process starts or ends
                assert not environment or asks_for_token(environment), environment
            for fd in Path(f"/proc/{each.pid}/fd").iterdir():
                link = os.readlink(fd)
                if link.startswith("socket:[") and link[8:-1] in inodes:
                    found.add((each.name(), inodes[link[8:-1]]))
        except (psutil.NoSuchProcess, FileNotFoundError, PermissionError):
            continue
    return found


def asks_for_token(environment: dict[str, str]) -> bool:
    return environment["RAY_AUTH_MODE"] == "token" and len(environment["RAY_AUTH_TOKEN"]) >= 32


def is_loopback(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_loopback


def watched(name: str, *arguments: str, **variables: str) -> set[tuple[str, str]]:
    """Runs jobs/<name>.py with some variables; returns all sockets on which it has listened."""
    without = ("RAY_", "GLOO_", "NCCL_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(without)} | variables
    with subprocess.Popen(
        [sys.executable, f"jobs/{name}.py", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        tree, found = psutil.Process(process.pid), set()
        known: set[str] = set()
        try:
            while process.poll() is None:
                inodes = listening_inodes()
                if not inodes.keys() <= known:  # reading all descriptors is slow
                    found |= owners(tree, inodes)
                    known = set(inodes)
                time.sleep(0.1)
        finally:
            process.kill()
        assert process.stdout is not None
        assert process.returncode == 0, process.stdout.read()
    return found


def check(found: set[tuple[str, str]], *names: str) -> None:
    """All sockets are on loopback, and processes with these names were seen."""
    assert {each for each in found if not is_loopback(each[1])} == set()
    seen = {process for process, _ in found}
    assert all(any(process.startswith(name) for process in seen) for name in names), seen


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
    assert watched("preprocess", *arguments, f"{tmp_path}/local") == set()
    found = watched("preprocess", *arguments, f"{tmp_path}/ray", RAY_ADDRESS="local")
    check(found, "gcs_server", "raylet")


def test_training_on_two_workers(data, tmp_path):
    arguments = ["--data", data, "--runs", str(tmp_path), "--run-name", "a", "--workers", "2"]
    found = watched("train_dlf", *arguments, "--train.epochs", "1", *MODEL)
    check(found, "gcs_server", "raylet", "ray::RayTrainW")


def test_a_comparison(data, tmp_path):
    (tmp_path / "small.yaml").write_text("model: dlf\nvariants: {full: {}}\n")
    settings = json.dumps({**SETTINGS, "train.epochs": 1})
    arguments = ["--study", f"{tmp_path}/small.yaml", "--data", data, "--runs", str(tmp_path)]
    found = watched("compare", *arguments, "--set", settings)
    check(found, "gcs_server", "raylet", "ray::_train")


@pytest.mark.slow
def test_jobs_without_ray_listen_on_loopback_at_most(data, tmp_path):
    arguments = ["--data", data, "--runs", str(tmp_path), "--run-name", "a"]
    check(watched("train_dlf", *arguments, "--train.epochs", "1", *MODEL), "python")  # gloo's
    check(watched("evaluate", "--checkpoint", f"{tmp_path}/a"), "python")
    assert watched("logistic_regression", "--data", data) == set()


@pytest.mark.slow
def test_a_search(data, tmp_path):
    space = "model: dlf\nspace: {optim.dense.lr: {loguniform: [0.0001, 0.01]}}\n"
    (tmp_path / "small.yaml").write_text(space)
    settings = json.dumps({**SETTINGS, "train.epochs": 1})
    arguments = ["--study", f"{tmp_path}/small.yaml", "--data", data, "--runs", str(tmp_path)]
    found = watched("tune", *arguments, "--set", settings, "--trials", "2")
    check(found, "gcs_server", "raylet")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_demo(tmp_path):
    folders = ["--output", f"{tmp_path}/demo", "--runs", f"{tmp_path}/runs"]
    check(watched("demo", *folders, "--rows", "20000"), "gcs_server", "raylet")
