"""Tracking with the real MLflow: the default store, and a server that hangs, dies, comes back."""

import json
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ctrdist.config.experiment import TrackingConfig
from ctrdist.errors import ConfigError
from ctrdist.tracking import DatasetUse, RunTracker, replay
from ctrdist.tracking.events import EVENTS_NAME, read_events
from ctrdist.tracking.mlflow_writer import STATE_NAME, MlflowState
from tests.datasets import write_dataset
from tests.faults import Job
from tests.mlflow_server import Server, client, steps_of, wait_until

ROOT = Path(__file__).resolve().parents[2]
SLOW_CALL = 1.0
"""Seconds. A call that waits for a hanging server takes 2; a busy machine holds it up less."""


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once, as MLflow takes seconds for it."""
    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    client(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def default_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path) -> None:
    """SQLite in the runs directory, made before."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_database, tmp_path / "runs" / "mlflow.db")


@pytest.fixture
def server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path
) -> Iterator[Server]:
    """Not started; MLFLOW_TRACKING_URI points to it."""
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copy(empty_database, folder / "server.db")
    made = Server(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", made.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    yield made
    made.kill()


def tracker_in(path: Path, resume: bool = False, retry_seconds: float = 1.0) -> RunTracker:
    config = TrackingConfig(experiment="test")
    run_dir = str(path / "runs" / "run")
    return RunTracker(
        run_dir, str(path / "runs"), "run", config, resume, retry_seconds=retry_seconds
    )


def timed(call: Callable[..., object], *arguments: object) -> float:
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


def recorded_steps(run_dir: Path) -> list[int | None]:
    events, _ = read_events(run_dir / EVENTS_NAME, 0, max_bytes=1 << 30)
    return [e.step for e in events if "train/loss" in e.values]


def test_the_default_store_gets_everything_and_a_resumed_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracker = tracker_in(tmp_path)
    params = {"train": {"lr": 0.1, "epochs": 3, "note": "", "long": "x" * 9000}, "fields": [1, 2]}
    tracker.start(params, {"purpose": "test"}, {"config.yaml": "a: 1\n", "plan/plan.txt": "p"})
    for step in range(1500):
        tracker.log_metrics({"train/loss": 1 / (step + 1), "odd (name)!": step}, step)
    tracker.log_metrics({"valid/gauc": float("nan")}, 1)
    rows, figures = {"train": 10, "test": 2}, {"warnings": [{"column": "C1", "kind": "drift"}]}
    tracker.log_dataset(
        DatasetUse(
            name="tiny",
            path="s3://bucket/tiny",
            fingerprint="0123456789abcdef",
            rows=rows,
            profile=figures,
        )
    )
    tracker.finish("FAILED", {"test": {"auc": 0.75}})
    first_id, uri = tracker.run_id, tracker.tracking_uri
    assert uri == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert client(uri).get_run(first_id).info.status == "FAILED"

    params["train"]["epochs"] = 5
    tracker = tracker_in(tmp_path, resume=True)
    tracker.start(params, {"purpose": "test"}, {"config.yaml": "a: 2\n"})
    tracker.log_metrics({"train/loss": 0.0}, 1500)
    tracker.finish("FINISHED")

    assert tracker.run_id == first_id
    run = client(uri).get_run(first_id)
    assert run.info.status == "FINISHED" and run.info.run_name == "run"
    assert run.data.params["train.lr"] == "0.1" and run.data.params["fields"] == "[1, 2]"
    assert run.data.params["train.epochs"] == "3" and run.data.params["train.note"] == ""
    assert len(run.data.params["train.long"]) == 500
    assert run.data.tags["changed.train.epochs"] == "5" and run.data.tags["purpose"] == "test"
    assert run.data.tags["data.fingerprint"] == "0123456789abcdef"
    assert run.data.metrics["odd _name__"] == 1499
    dataset = run.inputs.dataset_inputs[0].dataset
    assert dataset.digest == "0123456789abcdef"
    assert json.loads(dataset.profile) == {"train_rows": 10, "test_rows": 2, **figures}
    assert steps_of(uri, first_id) == list(range(1501))
    stored = tmp_path / "runs" / "mlartifacts" / first_id / "artifacts"
    assert (stored / "config.yaml").read_text() == "a: 1\n"
    assert (stored / "config.2.yaml").read_text() == "a: 2\n"
    assert (stored / "plan" / "plan.txt").read_text() == "p"
    assert json.loads((stored / "summary.json").read_text()) == {"test": {"auc": 0.75}}

    # A crash between sending and noting it sends again, which must change nothing.
    state = MlflowState.load(tmp_path / "runs" / "run")
    state.delivered = 0
    state.save(tmp_path / "runs" / "run")
    assert replay(str(tmp_path / "runs" / "run")) == first_id
    assert steps_of(uri, first_id) == list(range(1501))
    assert len(client(uri).search_runs(["1"])) == 1


def test_runs_that_start_together_in_a_new_directory_do_not_break_the_store(tmp_path):
    code = """
import sys
from ctrdist.config.experiment import TrackingConfig
from ctrdist.tracking import RunTracker
runs, name = sys.argv[1:]
tracker = RunTracker(f"{runs}/{name}", runs, name, TrackingConfig(), False)
tracker.start({})
tracker.log_metrics({"train/loss": 1.0}, 1)
tracker.finish("FINISHED")
print(tracker.run_id)
"""
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), name],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    ids = [process.communicate(timeout=120)[0].strip() for process in started]
    for run_id in ids:
        assert steps_of(f"sqlite:///{tmp_path}/mlflow.db", run_id) == [1]
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"one", "two", "mlflow.db", "mlartifacts"}


@pytest.mark.slow
def test_a_server_that_hangs_and_dies_does_not_hold_up_training(tmp_path, server, caplog):
    server.start()
    tracker = tracker_in(tmp_path)
    times = [timed(tracker.start, {"a": 1}, {}, {"config.yaml": "a: 1\n"})]
    run_dir = tmp_path / "runs" / "run"
    step = 0

    def train(seconds: float) -> None:
        nonlocal step
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            times.append(timed(tracker.log_metrics, {"train/loss": 1 / (step + 1)}, step))
            step += 1
            time.sleep(0.01)

    train(0.5)
    run_id = tracker.run_id
    wait_until(lambda: len(steps_of(server.uri, run_id)) >= 20, 30)
    server.signal(signal.SIGSTOP)  # takes connections, and never answers
    train(5.0)
    server.kill()
    times.append(timed(tracker.log_artifact_text, "late.txt", "written while it was down"))
    train(2.0)
    warnings = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 1, [r.getMessage() for r in warnings]
    assert "no answer in time" in warnings[0].getMessage()
    assert "events.jsonl" in warnings[0].getMessage()

    server.start()
    train(1.0)
    tracker.finish("FINISHED")
    assert max(times) < SLOW_CALL
    assert sorted(times)[len(times) // 2] < 0.01
    assert recorded_steps(run_dir) == list(range(step))
    assert steps_of(server.uri, run_id) == list(range(step))
    run = client(server.uri).get_run(run_id)
    assert run.info.status == "FINISHED"
    assert {a.path for a in client(server.uri).list_artifacts(run_id)} >= {
        "config.yaml",
        "late.txt",
    }
    assert tracker.run_id == run_id


@pytest.mark.slow
def test_ray_workers_without_a_server_warn_once_and_the_named_command_delivers(
    tmp_path, server, monkeypatch
):
    write_dataset(tmp_path / "data", {"train": 300, "valid": 100, "test": 100})
    settings = {"workers": 2, "tracking.mlflow": True, "train.epochs": 1}
    run = Job(str(tmp_path / "data"), tmp_path / "runs", "run", settings)
    assert run.result()["undelivered"] == ["MLflow"]
    (warning,) = [line for line in run.err.splitlines() if "WARNING" in line]
    assert f"MLflow at {server.uri} fails: no connection" in warning
    command = f"python jobs/replay.py --run {run.run_dir}"
    assert f"`{command}`" in warning and f"MLflow has not got all of this run: {command}" in run.out

    def replayed(*options: str) -> subprocess.CompletedProcess[str]:
        arguments = [sys.executable, *shlex.split(command)[1:], *options]
        return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=120)

    nobody = replayed()
    assert nobody.returncode == 2 and "Traceback" not in nobody.stderr
    assert f"{server.uri} fails: no connection. Start it, or set MLFLOW" in nobody.stderr
    bad = replayed("--tracking_uri", "localhost:5000")
    assert bad.returncode == 2 and "--tracking_uri localhost:5000 has no scheme" in bad.stderr
    server.start()
    done = replayed("--json")
    assert done.returncode == 0, done.stderr
    run_id = json.loads(done.stdout.splitlines()[-1])["sent"]["run"]
    assert steps_of(server.uri, run_id) == recorded_steps(run.run_dir)


@pytest.mark.slow
def test_a_server_that_is_never_there_is_warned_of_and_served_by_replay(tmp_path, server, caplog):
    tracker = tracker_in(tmp_path)
    times = [timed(tracker.start, {"a": 1}, {}, {"config.yaml": "a: 1\n"})]
    times += [timed(tracker.log_metrics, {"train/loss": 0.5}, step) for step in range(300)]
    assert tracker.run_id.startswith("local-")  # once it is known that nobody answers
    time.sleep(2.5)  # for some more attempts
    assert timed(tracker.finish, "FINISHED", {"test": {"auc": 0.7}}) < 16
    assert max(times) < SLOW_CALL
    (warning,) = caplog.records
    assert "fails" in warning.getMessage() and "jobs/replay.py" in warning.getMessage()
    assert tracker.undelivered == ["MLflow"]
    run_dir = tmp_path / "runs" / "run"
    assert recorded_steps(run_dir) == list(range(300))
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI"):
        replay(str(run_dir))

    server.start()
    run_id = replay(str(run_dir))
    assert replay(str(run_dir)) == run_id
    assert steps_of(server.uri, run_id) == list(range(300))
    run = client(server.uri).get_run(run_id)
    assert run.info.status == "FINISHED" and run.data.params == {"a": "1"}
    began = json.loads((run_dir / EVENTS_NAME).read_text().splitlines()[0])["time"]
    assert run.info.start_time == began


def test_what_mlflow_refuses_holds_nothing_back(tmp_path, default_store, caplog):
    tracker = tracker_in(tmp_path, retry_seconds=0.1)
    tracker.log_artifact_text("gone.txt", "x")
    lost = tmp_path / "runs" / "run" / "artifacts" / "gone.txt"
    lost.unlink()
    tracker.start({})
    tracker.log_metrics({"train/loss": 0.5}, 7)
    tracker.finish("FINISHED")
    assert steps_of(tracker.tracking_uri, tracker.run_id) == [7]
    assert any("gone.txt" in r.getMessage() for r in caplog.records)
    state = json.loads((tmp_path / "runs" / "run" / STATE_NAME).read_text())
    assert len(state["skipped"]) == 1

    with pytest.raises(ConfigError, match="refuses 1 of its events"):
        replay(str(tmp_path / "runs" / "run"))
    lost.write_text("found again")
    replay(str(tmp_path / "runs" / "run"))
    state = json.loads((tmp_path / "runs" / "run" / STATE_NAME).read_text())
    assert state["skipped"] == []
    stored = tmp_path / "runs" / "mlartifacts" / tracker.run_id / "artifacts"
    assert (stored / "gone.txt").read_text() == "found again"


def test_what_fails_for_a_moment_is_sent_again(tmp_path, default_store, monkeypatch, caplog):
    from mlflow import MlflowClient, MlflowException

    failures = [MlflowException("API request failed with error code 503"), ConnectionError("reset")]
    send = MlflowClient.log_batch

    def log_batch(*args: Any, **kwargs: Any) -> Any:
        if "metrics" in kwargs and failures:
            raise failures.pop()
        return send(*args, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
    tracker = tracker_in(tmp_path)
    tracker.start({})
    tracker.log_metrics({"train/loss": 0.5}, 7)
    tracker.finish("FINISHED")
    assert not failures
    assert steps_of(tracker.tracking_uri, tracker.run_id) == [7]
    assert MlflowState.load(tmp_path / "runs" / "run").skipped == []
    assert not caplog.records


class _Refusing(BaseHTTPRequestHandler):
    """A proxy in front of MLflow that wants credentials."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="mlflow"')
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


def test_missing_credentials_are_one_warning_that_names_them(tmp_path, monkeypatch, caplog):
    with ThreadingHTTPServer(("127.0.0.1", 0), _Refusing) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        uri = f"http://user:secret@127.0.0.1:{proxy.server_port}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        tracker = tracker_in(tmp_path)
        tracker.start({})
        tracker.finish("FINISHED")
        with pytest.raises(ConfigError, match=r"\(HTTP 401\); give MLFLOW_TRACKING_USERNAME"):
            replay(str(tmp_path / "runs" / "run"))
        proxy.shutdown()
    (warning,) = caplog.messages
    assert "refuses the credentials (HTTP 401); give MLFLOW_TRACKING_USERNAME" in warning
    assert "`python jobs/replay.py --run " in warning and "secret" not in warning


def test_a_deleted_experiment_is_reported_with_the_remedy(tmp_path, default_store, caplog):
    from mlflow import MlflowClient

    tracker = tracker_in(tmp_path)
    tracker.start({})
    tracker.finish("FINISHED")
    client = MlflowClient(tracker.tracking_uri)
    experiment = client.get_run(tracker.run_id).info.experiment_id
    client.delete_experiment(experiment)
    state = MlflowState.load(tmp_path / "runs" / "run")
    state.forget_run()
    state.key = "another"
    state.save(tmp_path / "runs" / "run")
    with pytest.raises(
        ConfigError, match=f"mlflow experiments restore --experiment-id {experiment}"
    ):
        replay(str(tmp_path / "runs" / "run"))
    tracker = tracker_in(tmp_path)
    tracker.start({})
    tracker.finish("FINISHED")
    (warning,) = caplog.messages
    assert f"restore --experiment-id {experiment}`. " in warning
    assert f"`python jobs/replay.py --run {tmp_path}/runs/run`" in warning


def test_a_run_that_the_server_lost_is_made_again(tmp_path, default_store):
    tracker = tracker_in(tmp_path)
    tracker.start({"a": 1})
    tracker.log_metrics({"train/loss": 0.5}, 1)
    tracker.finish("FINISHED")
    state = MlflowState.load(tmp_path / "runs" / "run")
    state.run_id, state.key = "0" * 32, "another"
    state.save(tmp_path / "runs" / "run")
    tracker = tracker_in(tmp_path, resume=True)
    tracker.start({"a": 1})
    tracker.log_metrics({"train/loss": 0.4}, 2)
    tracker.finish("FINISHED")
    assert tracker.run_id != "0" * 32
    assert steps_of(tracker.tracking_uri, tracker.run_id) == [1, 2]
