"""Killed at any moment, and started again, preprocessing leaves what an undisturbed run does."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from preprocessing.write.output_dir import MARKER

ROOT = Path(__file__).resolve().parents[2]
ROWS = 120_000
YAML = """
columns:
  - {name: label, role: label}
  - {name: x, role: numeric}
  - {name: a}
  - {name: b, min_count: 2}
shuffle: true
"""


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("log")
    rng = np.random.default_rng(3)
    columns = (
        rng.integers(0, 2, ROWS),
        rng.integers(0, 999, ROWS),
        rng.zipf(1.3, (2, ROWS)) % 20_000,
    )
    a, b = columns[2]
    rows = zip(columns[0].tolist(), columns[1].tolist(), a.tolist(), b.tolist(), strict=True)
    text = "\n".join(f"{y}\t{x}\ta{u}\tb{v}" for y, x, u, v in rows)
    (folder / "log.tsv").write_text(text + "\n")
    (folder / "data.yaml").write_text(YAML)
    return folder


def start(log: Path, output: Path, *options: str, ray: bool = False) -> subprocess.Popen[str]:
    argv = [sys.executable, str(ROOT / "jobs/preprocess.py"), "--config", str(log / "data.yaml")]
    argv += ["--input", str(log / "log.tsv"), "--output", str(output), "--json"]
    argv += ["--shard_bytes", "80000", "--row_group_size", "1000", *options]
    return subprocess.Popen(
        argv,
        env={**os.environ, **({"RAY_ADDRESS": "local"} if ray else {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> dict:
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def digests(output: Path) -> dict[str, str]:
    files = [p for p in output.rglob("*") if p.is_file() and not p.name.startswith(".")]
    return {str(p.relative_to(output)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def undisturbed(log, tmp_path_factory) -> tuple[dict[str, str], float]:
    """Checksums of all files, and how long the passes took."""
    output = tmp_path_factory.mktemp("whole") / "out"
    result = finish(start(log, output, "--workers", "1"))
    assert result["rows"] == ROWS
    return digests(output), result["seconds"]


def kill_in_the_middle(
    process: subprocess.Popen[str], output: Path, victim: str, after: float
) -> bool:
    """Kills a process of a run some seconds after it began; whether it was still at work."""
    deadline = time.monotonic() + 120
    while not (output / MARKER).exists():
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(after)
    if process.poll() is not None:
        return False
    driver = psutil.Process(process.pid)
    if victim == "driver":
        family = driver.children(recursive=True)
        driver.kill()
        process.wait()
        # What belonged to it ends with it, but not at once.
        psutil.wait_procs(family, timeout=30)
        return True
    while process.poll() is None:
        family = driver.children(recursive=True)
        if victim == "process":
            found = [p for p in family if p.ppid() != process.pid]  # children of the fork server
        else:
            wanted = {"worker": "ray::", "raylet": "raylet"}[victim]
            found = [p for p in family if wanted in " ".join(_command(p))[:200]]
        if found:
            random.choice(found).send_signal(signal.SIGKILL)
            return True
        time.sleep(0.02)
    return False


def _command(process: psutil.Process) -> list[str]:
    try:
        line = process.cmdline()
    except psutil.Error:
        return []
    return [os.path.basename(line[0]), *line[1:2]] if line else []


def run_with_a_kill(log: Path, output: Path, victim: str, after: float) -> bool:
    """A run that is disturbed, and one that goes on with it if it did not end well."""
    process = start(log, output, ray=victim != "process")
    hit = kill_in_the_middle(process, output, victim, after)
    try:
        process.communicate(timeout=280)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    if process.returncode != 0:
        finish(start(log, output))
    return hit


@pytest.mark.parametrize(
    "victim", ["process", "worker", pytest.param("driver", marks=pytest.mark.slow)]
)
def test_one_kill_changes_nothing(log, tmp_path, undisturbed, victim):
    expected, seconds = undisturbed
    assert run_with_a_kill(log, tmp_path / "out", victim, 0.4 * seconds)
    assert digests(tmp_path / "out") == expected
    assert not (tmp_path / f"out/{MARKER}").exists() and not (tmp_path / "out/_work").exists()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_kills_at_random_change_nothing(log, tmp_path, undisturbed):
    expected, seconds = undisturbed
    draw = random.Random(20)
    hits = 0
    for number in range(20):
        victim = draw.choice(["process", "worker", "driver", "driver", "raylet"])
        output = tmp_path / f"out{number}"
        hit = run_with_a_kill(log, output, victim, draw.uniform(0, seconds))
        hits += hit
        assert digests(output) == expected, (number, victim)
        print(f"{number + 1}/20 {victim}: {'killed' if hit else 'had ended'}, identical")
    assert hits >= 15
