"""Studies and searches as users run them: real Ray processes, Ray Tune, MLflow and files."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.datasets import write_dataset
from tests.integration.test_train_job import MODEL, ROOT, SETTINGS, job, last_json
from tests.sockets import check_loopback, watched

pytestmark = pytest.mark.timeout(600)  # several jobs in each test, each with a Ray of its own
STUDY = """
model: dlf
seeds: [1, 2]
variants:
  full: {}
  w/o gate: {model.gate: plain}
"""
SEARCH = """
model: dlf
space:
  optim.dense.lr: {loguniform: [0.0001, 0.01]}
  model.gate: {choice: [max, plain]}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data")
    write_dataset(path, {"train": 2001, "valid": 300, "test": 301})
    return str(path)


def arguments(folder: Path, data: str, **settings: object) -> list[str]:
    values = json.dumps({**SETTINGS, "train.epochs": 1, **settings})
    return [
        "--study",
        f"{folder}/small.yaml",
        "--data",
        data,
        "--runs",
        str(folder),
        "--set",
        values,
    ]


@pytest.mark.slow
def test_a_study_is_trained_compared_and_gone_on_with(tmp_path, data):
    (tmp_path / "small.yaml").write_text(STUDY)
    given = arguments(tmp_path, data)
    first = job("compare", *given, "--seeds", "[1]", "--json")
    result = last_json(first)
    assert "Traceback" not in first.stderr and "Warning" not in first.stderr
    assert [row["variant"] for row in result["variants"]] == ["full", "w/o gate"]
    folder = tmp_path / "studies/small"
    kept = {path.name: path.read_bytes() for path in folder.glob("*.json")}
    assert set(kept) == {"small.full.1.json", "small.w-o-gate.1.json"}

    # with the second seed: what is there is not trained again
    second = job("compare", *given, "--json")
    rows = {row["variant"]: row for row in last_json(second)["variants"]}
    assert "2 of 4 runs are already done" in second.stderr
    assert all((folder / name).read_bytes() == text for name, text in kept.items())
    assert rows["full"]["seeds"] == [1, 2]
    values = [
        json.loads((folder / f"small.w-o-gate.{seed}.json").read_text())["summary"]["test"]["auc"]
        for seed in (1, 2)
    ]
    assert rows["w/o gate"]["auc"]["mean"] == pytest.approx(sum(values) / 2)
    assert "auc_difference" in rows["w/o gate"] and "auc_difference" not in rows["full"]
    assert "| w/o gate | 2 |" in (folder / "table.md").read_text()

    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("small")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.run_name for run in runs} == {
        f"small.{variant}.{seed}" for variant in ("full", "w-o-gate") for seed in (1, 2)
    }
    assert {run.info.status for run in runs} == {"FINISHED"}

    # other settings under the same names are refused, and nothing is overwritten
    changed = job("compare", *arguments(tmp_path, data, **{"train.epochs": 2}))
    assert changed.returncode == 2
    assert "train.epochs: 1 → 2" in changed.stderr and "--name" in changed.stderr
    # also where only further seeds are asked for, whose results would stand in one table with them
    mixed = job("compare", *arguments(tmp_path, data, **{"train.epochs": 2}), "--seeds", "[3]")
    assert mixed.returncode == 2 and "train.epochs: 1 → 2" in mixed.stderr
    write_dataset(tmp_path / "other", {"train": 500, "valid": 300, "test": 301})
    other = job("compare", *arguments(tmp_path, str(tmp_path / "other")), "--seeds", "[3]")
    assert other.returncode == 2 and "data_fingerprint: " in other.stderr


def test_a_variant_that_fails_does_not_hold_up_the_others(tmp_path, data):
    text = STUDY.replace("model.gate: plain", "train.monitor: gauc")  # the data has no user
    (tmp_path / "small.yaml").write_text(text)
    done, found = watched("compare", *arguments(tmp_path, data), "--seeds", "[1]", "--json")
    assert done.returncode == 2
    check_loopback(found, "gcs_server", "raylet", "ray::_train")
    (row,) = json.loads(done.stdout.splitlines()[-1], parse_constant=pytest.fail)["variants"]
    assert row["auc"]["sd"] is None  # of one seed
    assert "1 of 2 runs failed; the others are kept. small.w-o-gate.1: " in done.stderr
    assert "has no user column" in done.stderr and "Traceback" not in done.stderr
    assert "| full | 1 |" in (tmp_path / "studies/small/table.md").read_text()


def test_an_interrupted_comparison_leaves_no_run_that_seems_to_run(tmp_path, data):
    from mlflow.tracking import MlflowClient

    (tmp_path / "small.yaml").write_text("model: dlf\nvariants: {full: {}}\n")
    command = [
        sys.executable,
        "jobs/compare.py",
        *arguments(tmp_path, data, **{"train.epochs": 99, "train.patience": 99}),
    ]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        events = tmp_path / "small.full.2024/events.jsonl"
        deadline = time.monotonic() + 200
        while not events.exists() or '"metrics"' not in events.read_text():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130, process.stderr and process.stderr.read()
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("small")
    runs = client.search_runs([experiment.experiment_id])
    assert [run.info.status for run in runs] == ["KILLED"]


@pytest.mark.slow
def test_a_search_chooses_by_the_valid_split_and_goes_on(tmp_path, data):
    (tmp_path / "small.yaml").write_text(SEARCH)
    given = [*arguments(tmp_path, data), "--trials", "3", "--json"]
    first = job("tune", *given)
    trials = last_json(first)["trials"]
    assert "Traceback" not in first.stderr
    assert len(trials) == 3 and {trial["status"] for trial in trials} == {"trained"}
    values = [trial["result"]["valid_auc"] for trial in trials]
    assert values == sorted(values, reverse=True)
    assert len({trial["settings"]["optim.dense.lr"] for trial in trials}) == 3
    best = yaml.safe_load((tmp_path / "studies/small/best.yaml").read_text())
    assert best["optim"]["dense"]["lr"] == trials[0]["settings"]["optim.dense.lr"]
    assert best["model"]["gate"] == trials[0]["settings"]["model.gate"]
    more = job("tune", *given, "--trials", "4")
    assert more.returncode == 2 and "it differs in trials" in more.stderr
    # the preset trains, and the search is not begun again
    again = job("tune", *given)
    assert last_json(again)["trials"] == trials
    preset = str(tmp_path / "studies/small/best.yaml")
    plan = job("train", "--model", "dlf", "--config", preset, "--data", data, "--dry-run", *MODEL)
    assert plan.returncode == 0, plan.stderr


@pytest.mark.slow
def test_a_trial_that_reaches_the_last_epoch_has_its_result(tmp_path, data):
    (tmp_path / "small.yaml").write_text(SEARCH)
    longer = {"train.epochs": 5, "train.patience": 9}  # the first rung is at the fourth epoch
    found = job("tune", *arguments(tmp_path, data, **longer), "--trials", "2", "--json")
    trials = last_json(found)["trials"]
    assert any(trial["status"] == "trained" for trial in trials)
    for trial in trials:
        assert (trial["status"] == "trained") == (trial["result"]["epoch"] == 5)


def test_a_space_that_cannot_be_drawn_is_refused(tmp_path, data):
    for space, message in (
        ("{model.gat: {choice: [1]}}", "there is no setting model.gat"),
        ("{model.gate: {pick: [max]}}", "model.gate is drawn by"),
        ("{optim.dense.lr: {uniform: [1]}}", "optim.dense.lr is drawn by"),
        ("{}", "the space is empty"),
    ):
        (tmp_path / "small.yaml").write_text(f"model: dlf\nspace: {space}\n")
        done = job("tune", *arguments(tmp_path, data))
        assert done.returncode == 2 and message in done.stderr, done.stderr
