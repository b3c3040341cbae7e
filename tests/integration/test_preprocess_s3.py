"""Preprocessing from and to a real S3 server that is killed and started again in the middle."""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import numpy as np

from tests.integration.test_preprocess_kills import ROOT, YAML
from tests.s3_server import S3Server

ROWS = 60_000


def job(folder: Path, source: str, output: str, env: dict[str, str]) -> subprocess.Popen[str]:
    argv = [sys.executable, str(ROOT / "jobs/preprocess.py"), "--config", str(folder / "data.yaml")]
    argv += ["--input", source, "--output", output, "--json", "--shard_bytes", "100000"]
    return subprocess.Popen(
        [*argv, "--row_group_size", "1000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **env},
    )


def test_a_server_that_goes_away_is_waited_for(tmp_path):
    rng = np.random.default_rng(5)
    values = rng.zipf(1.3, (ROWS, 2)) % 5000
    text = "".join(f"{i % 2}\t{i % 77}\ta{u}\tb{v}\n" for i, (u, v) in enumerate(values.tolist()))
    (tmp_path / "data.yaml").write_text(YAML)
    (tmp_path / "log.tsv").write_text(text)
    root = tmp_path / "s3"
    (root / "logs").mkdir(parents=True)
    (root / "logs/log.tsv").write_text(text)
    server = S3Server(root)
    server.start()
    outages = 0
    try:
        process = job(tmp_path, "s3://logs/log.tsv", "s3://logs/out", server.environment)
        for wanted in ("done", "vocabulary"):  # the first marks; the first vocabulary
            deadline = time.monotonic() + 200
            while not any(root.rglob(f"{wanted}/*")) and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            if process.poll() is None:
                server.kill()
                time.sleep(3)
                server.start()
                outages += 1
        out, err = process.communicate(timeout=250)
        assert process.returncode == 0, err
        assert outages == 2
        assert json.loads(out.splitlines()[-1])["rows"] == ROWS
        fs = fsspec.filesystem(
            "s3", key="key", secret="secret", endpoint_url=server.environment["AWS_ENDPOINT_URL"]
        )
        remote = {
            path.removeprefix("logs/out/"): hashlib.sha256(fs.cat_file(path)).hexdigest()
            for path in fs.find("logs/out")
        }
    finally:
        server.kill()
    process = job(tmp_path, str(tmp_path / "log.tsv"), str(tmp_path / "out"), {})
    _, err = process.communicate(timeout=250)
    assert process.returncode == 0, err
    here = {
        str(p.relative_to(tmp_path / "out")): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in (tmp_path / "out").rglob("*")
        if p.is_file()
    }
    for name in [n for n in remote if n.startswith(".")]:
        remote.pop(name), here.pop(name)
    assert remote == here
