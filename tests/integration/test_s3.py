"""The same jobs with the log and the data set on S3: a real S3 server (rclone) on this machine."""

import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import torch

from ctrdist.checkpoint.folder import Folder
from ctrdist.checkpoint.store import CheckpointStore, Texts, complete, load_tensors, read
from ctrdist.config.experiment import CheckpointConfig
from ctrdist.distributed.process_group import World
from ctrdist.errors import CheckpointError, DamagedCheckpointError
from tests.datasets import write_dataset
from tests.integration.test_train_job import MODEL, job, last_json
from tests.ranks import run_ranks
from tests.s3_server import S3Server

COLUMNS = """
name: small
format: {type: csv, header: true}
split: {by: hash, fractions: [0.6, 0.2, 0.2], seed: 1}
min_count: 1
columns:
  - {name: label, role: label}
  - {name: amount, role: numeric, type: integer}
  - {name: site}
  - {name: tags, role: multi_valued, separator: "|"}
"""


@pytest.fixture(scope="module")
def bucket(tmp_path_factory) -> Iterator[tuple[Path, dict[str, str]]]:
    """The folder that bucket `logs` lies in, and the variables that lead to the server."""
    root = tmp_path_factory.mktemp("s3")
    (root / "logs").mkdir()
    server = S3Server(root)
    server.start()
    yield root / "logs", server.environment
    server.kill()


@pytest.fixture(scope="module")
def preprocessed(bucket, tmp_path_factory) -> tuple[dict, Path, dict]:
    """Results of the job on S3, the local data set of the same log, and its results."""
    folder, env = bucket
    local = tmp_path_factory.mktemp("local")
    preset = local / "small.yaml"
    preset.write_text(COLUMNS)
    lines = [
        f"{(i * 7919) % 3 == 0:d},{i % 50},s{i * i % 23},t{i % 5}|t{i % 7}" for i in range(4000)
    ]
    for name, part in (("a.csv", lines[:2500]), ("b.csv", lines[2500:])):
        text = "label,amount,site,tags\n" + "\n".join(part) + "\n"
        (folder / name).write_text(text)
        (local / name).write_text(text)
    shared = ["--config", str(preset), "--json"]
    remote = last_json(
        job(
            "preprocess",
            *shared,
            "--input",
            "s3://logs/*.csv",
            "--output",
            "s3://logs/out",
            env=env,
        )
    )
    here = last_json(
        job("preprocess", *shared, "--input", f"{local}/*.csv", "--output", str(local / "out"))
    )
    return remote, local / "out", here


def test_the_data_set_is_the_same_as_from_local_files(preprocessed, bucket):
    remote, local, here = preprocessed
    assert remote["rows"] == here["rows"] == 4000
    assert remote["vocabulary"] == here["vocabulary"]
    names = {str(p.relative_to(local)) for p in local.rglob("*") if p.is_file()}
    there = bucket[0] / "out"
    assert {str(p.relative_to(there)) for p in there.rglob("*") if p.is_file()} == names
    for name in names:
        # these hold the config, and so the inputs' addresses, or stand for it
        if name not in ("manifest.json", ".source.json"):
            assert (there / name).read_bytes() == (local / name).read_bytes(), name


@pytest.mark.slow
def test_training_reads_it(preprocessed, bucket, tmp_path):
    arguments = ["--runs", str(tmp_path), "--workers", "2", "--json", "--train.epochs", "1", *MODEL]
    remote = last_json(
        job("train_dlf", "--data", "s3://logs/out", "--run-name", "s3", *arguments, env=bucket[1])
    )
    assert remote["rows_seen"] > 2000
    assert remote["test"]["rows"] > 500


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("preprocess", ["--input", "s3://logs/none.csv", "--output", "s3://logs/o"], "none.csv"),
        ("train_dlf", ["--data", "s3://logs/none"], "s3://logs/none"),
    ],
)
def test_what_is_not_there_is_named(name, arguments, says, bucket, tmp_path):
    if name == "preprocess":
        preset = tmp_path / "small.yaml"
        preset.write_text(COLUMNS)
        arguments = ["--config", str(preset), *arguments]
    done = job(name, *arguments, env=bucket[1])
    assert done.returncode == 2, done.stderr
    assert says in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2


@pytest.mark.slow
def test_checkpoints_go_there_and_come_back(bucket, tmp_path, monkeypatch):
    data = str(tmp_path / "data")
    write_dataset(tmp_path / "data", {"train": 3001, "valid": 400, "test": 501})

    def train(workers: int, epochs: int) -> dict:
        return last_json(
            job(
                "train_dlf",
                *("--data", data, "--run-name", "far", "--runs", str(tmp_path)),
                *("--checkpoint.directory", "s3://logs/kept/", "--checkpoint.every_steps", "4"),
                *("--workers", str(workers), "--train.epochs", str(epochs), "--json", *MODEL),
                env=bucket[1],
            )
        )

    first = train(workers=2, epochs=1)
    assert first["checkpoint"].startswith("s3://logs/kept/far/step-")
    assert not (tmp_path / "far" / "checkpoints").exists()
    for name, value in bucket[1].items():
        monkeypatch.setenv(name, value)
    assert 1 <= len(complete("s3://logs/kept/far")) <= 3
    Folder("s3://logs/kept/far/step-000000001").put("r00000-cut.bin", b"cut off")
    second = train(workers=1, epochs=2)
    assert second["rows_seen"] == 2 * first["rows_seen"]
    assert "r00000-cut.bin" not in Folder("s3://logs/kept/far/step-000000001").files()
    again = last_json(
        job("evaluate", "--checkpoint", "s3://logs/kept/far", "--json", env=bucket[1])
    )
    assert again["checkpoint"] == second["checkpoint"]
    assert again["test"] == second["test"]


def save_and_load(world: World, env: dict[str, str], directory: str) -> list[str]:
    """More than one part of a multipart upload, and more than one read."""
    os.environ.update(env)
    store = CheckpointStore(directory, CheckpointConfig(keep=1))
    wanted = torch.arange(25_000_000, dtype=torch.float32).view(-1, 10)
    texts = Texts(config="model: {}\n", schema="{}", plan="{}")
    for step in (1, 2):
        store.save(step, {f"rank {world.rank}": wanted + step}, {}, texts)
    store.wait()
    found = {f"rank {world.rank}": torch.zeros_like(wanted)}
    load_tensors(read(directory).path, found)
    assert torch.equal(found[f"rank {world.rank}"], wanted + 2)
    return complete(directory)


def test_large_files_go_in_parts(bucket):
    kept = run_ranks(save_and_load, 2, bucket[1], "s3://logs/large")
    assert kept == [["s3://logs/large/step-000000002"]] * 2
    folder = bucket[0] / "large" / "step-000000002"
    assert [file.stat().st_size for file in folder.glob("*.bin")] == [100_000_000] * 2
    assert [path.name for path in (bucket[0] / "large").iterdir()] == [folder.name]


def test_damage_there_is_named(bucket, monkeypatch):
    for name, value in bucket[1].items():
        monkeypatch.setenv(name, value)
    folder = bucket[0] / "large" / "step-000000002"
    file = next(folder.glob("r00001-*.bin"))
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(DamagedCheckpointError, match=file.name):
        read("s3://logs/large")
    file.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"s3://logs/nowhere: has no whole checkpoint; nothing is there"
    ):
        read("s3://logs/nowhere")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(CheckpointError, match="credentials"):
        read("s3://logs/large")
    with pytest.raises(CheckpointError, match="credentials"):  # and removes nothing
        CheckpointStore("s3://logs/large", CheckpointConfig()).remove_leftovers()
    with pytest.raises(CheckpointError, match="credentials"):
        Folder("s3://logs/large/step-000000002").exists("complete.json")
