"""The training and evaluation jobs as users run them: real Ray workers, MLflow and files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ctrdist.tracking.events import metric_history
from tests.datasets import write_dataset
from tests.sockets import check_loopback, watched

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {
    "model.embedding_dim": 8,
    "model.num_layers": 1,
    "model.tokens_per_block": 4,
    "model.rank": 3,
    "model.hidden_dim": 16,
    "model.attention_layers": 1,
    "loader.batch_size": 200,
    "optim.tables.lr": 0.05,
}
MODEL = [part for name, value in SETTINGS.items() for part in (f"--{name}", str(value))]
MODEL += ["--auto", "[]"]


def job(
    name: str, *arguments: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs jobs/<name>.py in a process of its own."""
    return subprocess.run(
        [sys.executable, f"jobs/{name}.py", *arguments],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def last_json(done: subprocess.CompletedProcess[str]) -> dict:
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads(done.stdout.strip().splitlines()[-1], parse_constant=pytest.fail)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data")
    write_dataset(path, {"train": 3001, "valid": 400, "test": 501}, multi_valued=True, user=True)
    return str(path)


@pytest.fixture(scope="module")
def watched_run(data, tmp_path_factory) -> tuple[subprocess.CompletedProcess[str], Path, set]:
    """One run of two epochs on two workers, and the sockets on which it has listened."""
    runs = tmp_path_factory.mktemp("runs")
    options = ["--data", data, "--runs", str(runs), "--run-name", "first", "--workers", "2"]
    done, found = watched("train_dlf", *options, "--json", "--train.epochs", "2", *MODEL)
    return done, runs, found


@pytest.fixture(scope="module")
def trained(watched_run) -> tuple[subprocess.CompletedProcess[str], Path]:
    return watched_run[:2]


def test_training_reports_what_it_did(trained):
    result = last_json(trained[0])
    assert result["rows_seen"] == 2 * 3001
    assert result["workers"] == 2
    assert result["test"]["rows"] == 501 and result["valid"]["rows"] == 400
    assert result["test"]["auc"] > 0.7  # the best reachable is above 0.85
    assert {"auc", "logloss", "ne", "calibration", "gauc"} <= set(result["test"])
    assert result["samples_per_s"] > 0
    shares = [v for k, v in result["throughput"].items() if k.startswith("share_")]
    assert sum(shares) == pytest.approx(1.0)
    assert result["throughput"]["times_the_floor"] > 1
    assert Path(result["checkpoint"]).is_dir()
    assert "Traceback" not in trained[0].stderr
    assert "WARNING" not in trained[0].stderr and "Warning" not in trained[0].stderr


@pytest.mark.slow
def test_evaluation_of_the_run_gives_the_same_on_one_worker(trained, data):
    result = last_json(trained[0])
    again = last_json(
        job(
            "evaluate",
            "--checkpoint",
            result["run_dir"],
            "--data",
            data,
            "--split",
            "test",
            "--json",
        )
    )
    assert again["checkpoint"] == result["checkpoint"]
    for name, value in result["test"].items():
        assert again["test"][name] == pytest.approx(value, abs=1e-5), name


def test_two_workers_of_ray_listen_on_loopback_only(watched_run):
    check_loopback(watched_run[2], "gcs_server", "raylet", "ray::RayTrainW")


def test_a_metric_that_is_not_defined_is_null(trained, tmp_path):
    shape = {"multi_valued": True, "user": True}
    write_dataset(tmp_path, {"train": 50, "valid": 50, "test": 1}, **shape)
    checkpoint = last_json(trained[0])["checkpoint"]
    result = last_json(
        job("evaluate", "--checkpoint", checkpoint, "--data", str(tmp_path), "--json")
    )
    assert result["test"]["auc"] is None and result["test"]["logloss"] > 0
    for name in ("summary.json", "sharding_plan.json"):
        text = (trained[1] / "first" / "artifacts" / name).read_text()
        assert json.loads(text, parse_constant=pytest.fail)


def test_mlflow_has_the_run(trained):
    from mlflow.tracking import MlflowClient

    result = last_json(trained[0])
    client = MlflowClient(result["tracking_uri"])
    run = client.get_run(result["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["model.embedding_dim"] == "8"
    assert run.data.metrics["test_auc"] == pytest.approx(result["test"]["auc"])
    points = client.get_metric_history(result["run_id"], "auc")
    assert [point.step for point in points] == [1, 2]
    assert client.get_metric_history(result["run_id"], "training/loss")
    names = {file.path for file in client.list_artifacts(result["run_id"])}
    files = {"config.yaml", "sharding_plan.json", "schema.json", "environment.json", "tables.csv"}
    assert files | {"plots"} <= names
    plots = {file.path for file in client.list_artifacts(result["run_id"], "plots")}
    assert {"plots/roc_test.png", "plots/calibration_test.png"} <= plots
    assert {"plots/abundance.png", "plots/gradient_norms.png", "plots/classes.png"} <= plots
    for name, points in (
        ("tables/least_used", 2),
        ("grad_norm/low_order", 3),  # the last of 16 steps in each epoch, and step 20
        ("classes/train_positives_well_classified", 2),
        ("classes/valid_negatives_misclassified", 2),
        ("classes/test_positives_poorly_classified", 1),
    ):
        assert len(client.get_metric_history(result["run_id"], name)) == points, name
    assert set(run.data.params) == {*SETTINGS, "workers", "train.epochs"}
    assert run.data.tags["mlflow.source.name"] == "jobs/train_dlf.py"
    assert run.data.tags["command"].startswith("python jobs/train_dlf.py --data ")
    assert run.data.tags["model"] == "dlf" and run.data.tags["label"] == "label"
    described = run.data.tags["mlflow.note.content"]
    assert run.data.tags["command"] in described
    assert f"| test | {result['test']['auc']:.5f} |" in described
    unprefixed = {name for name in run.data.metrics if "/" not in name}
    main = {"auc", "logloss", "ne", "calibration", "gauc"}
    assert unprefixed == main | {f"test_{name}" for name in main}
    assert run.data.metrics["best/auc"] == pytest.approx(result["valid"]["auc"])
    assert f"#/experiments/{run.info.experiment_id}/runs" in result["mlflow_page"]
    inputs = run.inputs.dataset_inputs
    assert inputs and result["data_fingerprint"] in inputs[0].dataset.digest


def test_everything_is_also_in_the_local_file(trained):
    lines = (trained[1] / "first" / "events.jsonl").read_text().splitlines()
    kinds = [json.loads(line)["kind"] for line in lines]
    assert {"params", "metrics", "tags", "dataset", "artifact", "finish"} <= set(kinds)
    history = metric_history(trained[1] / "first" / "events.jsonl", ("grad_norm/", "tables/"))
    assert list(history["tables/median_used"]) == [1, 2]
    assert list(history["grad_norm/implicit"]) == [16, 20, 32]


@pytest.mark.slow
def test_a_transformer_run_has_its_attention_and_one_without_diagnostics_has_none(data, tmp_path):
    settings = {"model.embedding_dim": 8, "model.hidden_dims": "[16]", "loader.batch_size": 500}
    arguments = ["--data", data, "--runs", str(tmp_path), "--workers", "2", "--json"]
    arguments += ["--train.epochs", "1", "--tracking.mlflow", "false"]
    arguments += [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    result = last_json(job("train_transformer", *arguments, "--run-name", "on"))
    assert result["collapsed_tables"]["of"] == 4
    folder = Path(result["run_dir"])
    assert (folder / "plots" / "attention_mass.png").is_file()
    attention = json.loads((folder / "artifacts" / "attention_mass.json").read_text())
    assert set(attention["to_itself"]) == {"I0", "I1", "C0", "tags", "C1", "C2"}
    weights = [pair["attention"] for pair in attention["pairs"]]
    assert len(weights) == 30 and weights == sorted(weights, reverse=True)
    assert sum(weights) + sum(attention["to_itself"].values()) == pytest.approx(6)

    off = last_json(
        job("train_transformer", *arguments, "--run-name", "off", "--diagnostics.enabled", "false")
    )
    assert "collapsed_tables" not in off and off["test"] == result["test"]
    assert not (Path(off["run_dir"]) / "plots" / "abundance.png").exists()


@pytest.mark.slow
def test_another_model_under_the_same_name_is_refused(trained, data):
    other = [*MODEL, "--model.rank", "5"]
    arguments = [
        "--data",
        data,
        "--runs",
        str(trained[1]),
        "--run-name",
        "first",
        "--train.epochs",
        "3",
    ]
    done = job("train_dlf", *arguments, *other)
    assert done.returncode == 2
    assert "model.rank = 3, this run has model.rank = 5" in done.stderr
    assert "another --run-name" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_checkpoint_with_data_of_another_schema_is_refused(trained, tmp_path):
    write_dataset(tmp_path, {"test": 100}, vocabulary=(30, 8, 50), multi_valued=True, user=True)
    done = job("evaluate", "--checkpoint", str(trained[1] / "first"), "--data", str(tmp_path))
    assert done.returncode == 2
    assert "another schema" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "/nowhere"], "/nowhere: no manifest.json there"),
        (["--train.epoch", "3"], "unknown key 'train.epoch'; the nearest is 'train.epochs'"),
        (["--train.epochs", "three"], "train.epochs"),
        (["--config", "jobs/configs/criteo_dfl.yaml"], "no such file"),
        ([], "--data DIR is missing"),
        (["--data", "{data}", "--workers", "0"], "--workers 0"),
        (
            ["--data", "{data}", "--auto=[]", "--loader.batch_size=8", "--loader.accumulate=8"],
            "batch normalisation needs two rows, and a worker would get one: loader.batch_size 8",
        ),
        (["--data", "{data}", "--optim.tables.l2", "0.1"], "needs optim.tables.name = adam"),
        (["--data", "{data}", "--optim.codebooks.l2", "0.1"], "optim.codebooks.l2 = 0.1 needs"),
        (
            ["--data", "{data}", "--dry-run", "--sharding.tables", "{tokens/C9: row_wise}"],
            "no table 'tokens/C9'",
        ),
        (
            ["--data", "{data}", "--dry-run", "--sharding.memory_gb", "0.000001"],
            "does not fit: 50 rows",
        ),
    ],
)
def test_bad_settings_end_with_one_message_and_code_2(data, tmp_path, arguments, message):
    filled = [data if argument == "{data}" else argument for argument in arguments]
    done = job("train_dlf", *filled, "--runs", str(tmp_path / "runs"))
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("error:") == 1 and "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_tracking_address_without_a_scheme_is_refused_before_anything_starts(data, tmp_path):
    arguments = ["--data", data, "--runs", str(tmp_path / "runs")]
    done = job("train_dlf", *arguments, env={"MLFLOW_TRACKING_URI": "localhost:5000"})
    assert done.returncode == 2 and not (tmp_path / "runs").exists()
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: MLFLOW_TRACKING_URI=localhost:5000 has no scheme. Give http://")


def test_evaluating_nothing_is_refused(tmp_path):
    done = job("evaluate", "--checkpoint", str(tmp_path))
    assert done.returncode == 2 and "has no whole checkpoint" in done.stderr


def test_dry_run_shows_the_plan_and_starts_nothing(data, tmp_path):
    done = job(
        "train_dlf",
        "--data",
        data,
        "--dry-run",
        "--json",
        "--workers",
        "2",
        "--runs",
        str(tmp_path / "runs"),
    )
    plan = last_json(done)
    assert set(plan["plan"]) == {"tokens/C0", "tokens/tags", "tokens/C1", "tokens/C2"}
    assert len(plan["bytes_per_worker"]) == 2
    assert "nothing was started" in done.stdout
    assert not (tmp_path / "runs").exists()


def test_a_resolved_config_is_a_config(data, tmp_path):
    shown = job("train_dlf", "--data", data, "--model.num_layers", "2", "--print_config")
    preset = tmp_path / "resolved.yaml"
    preset.write_text(shown.stdout)
    again = job("train_dlf", "--config", str(preset), "--print_config")
    assert shown.returncode == again.returncode == 0
    assert again.stdout == shown.stdout
    assert "num_layers: 2" in shown.stdout


@pytest.mark.parametrize("name", [path.stem for path in ROOT.glob("jobs/[!_]*.py")])
def test_help_imports_nothing_heavy(name):
    """--help answers at once: Arrow and numpy take 0.3 s to import, the others a second or more."""
    arguments = ["--model", "dlf"] if name == "train" else []
    code = (
        f"import sys, runpy; sys.argv = ['x', *{arguments}, '--help']\n"
        f"try: runpy.run_path('jobs/{name}.py', run_name='__main__')\n"
        "except SystemExit as leave: assert not leave.code\n"
        "slow = {'torch', 'torchrec', 'ray', 'mlflow', 'pandas', 'pyarrow', 'numpy', 'sklearn'}\n"
        "heavy = slow & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--" in done.stdout
