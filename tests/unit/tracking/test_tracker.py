"""The tracker without MLflow, and its parts."""

import importlib.util
import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ctrdist.config.experiment import TrackingConfig
from ctrdist.errors import ConfigError
from ctrdist.metrics.histogram import RocCurve
from ctrdist.tracking import (
    DatasetUse,
    RunTracker,
    end_killed,
    replay,
)
from ctrdist.tracking.address import check_address, tracking_store, without_credentials
from ctrdist.tracking.events import EVENTS_NAME, Event, read_events
from ctrdist.tracking.mlflow_writer import (
    STATE_NAME,
    MlflowState,
)
from ctrdist.tracking.plots import roc_figure
from ctrdist.tracking.system import SystemSampler
from ctrdist.tracking.tracker import flatten, git_commit, package_versions

OFF = TrackingConfig(mlflow=False)


def tracker_in(path: Path, resume: bool = False, config: TrackingConfig = OFF) -> RunTracker:
    return RunTracker(str(path / "run"), str(path), "run", config, resume)


def events_in(path: Path) -> list[Event]:
    return read_events(path / "run" / EVENTS_NAME, 0)[0]


def test_a_run_without_mlflow_is_recorded_whole(tmp_path):
    tracker = tracker_in(tmp_path)
    tracker.start({"train": {"lr": 0.1}}, {"note": "x"}, {"config.yaml": "lr: 0.1\n"})
    tracker.log_metrics({"train/loss": 0.5}, step=20)
    used = DatasetUse(name="tiny", path="s3://bucket/tiny", fingerprint="abc", rows={"train": 10})
    tracker.log_dataset(used)
    curve = RocCurve(false_P=np.array([0, 0, 1]), true_P=np.array([0, 1, 1]))
    tracker.log_figure("roc", roc_figure(curve, 1.0, "run"))
    tracker.finish("FINISHED", {"test": {"auc": 0.7, "split": "test"}})
    tracker.finish("FAILED")
    assert tracker.run_id.startswith("local-") and tracker.tracking_uri == ""
    events = events_in(tmp_path)
    kinds = [event.kind for event in events]
    assert kinds == [
        *("start", "params", "tags", "artifact", "artifact", "metrics"),
        *("dataset", "artifact", "artifact", "finish"),
    ]
    assert events[1].values == {"train.lr": 0.1}
    assert events[2].values["note"] == "x" and events[2].values["command"]
    assert (tmp_path / "run" / events[3].values["path"]).read_text() == "lr: 0.1\n"
    assert (tmp_path / "run" / events[7].values["path"]).read_bytes()[:4] == b"\x89PNG"
    environment = json.loads((tmp_path / "run" / events[4].values["path"]).read_text())
    assert environment["versions"]["torch"] and environment["host"]
    assert events[9].values["status"] == "FINISHED"
    assert not (tmp_path / "run" / STATE_NAME).exists()


def test_resuming_appends_to_the_file_and_a_new_run_renames_it(tmp_path):
    for resume in (False, True):
        tracker = tracker_in(tmp_path, resume)
        tracker.start({})
        tracker.finish("KILLED")
    assert [e.kind for e in events_in(tmp_path)].count("start") == 2
    tracker_in(tmp_path, resume=False).finish("FINISHED")
    assert [e.kind for e in events_in(tmp_path)] == ["finish"]
    assert (tmp_path / "run" / f"{EVENTS_NAME}.1").read_text().count('"start"') == 2


def test_settings_are_recorded_that_differ_from_their_defaults_or_have_done(tmp_path):
    defaults = {"train": {"epochs": 10, "seed": 1}, "model": {}}
    for epochs, recorded in ((5, {"train.epochs": 5}), (10, {"train.epochs": 10})):
        tracker = tracker_in(tmp_path, resume=epochs == 10)
        tracker.start({"train": {"epochs": epochs, "seed": 1}, "model": {}}, defaults=defaults)
        tracker.finish("KILLED")
        params = [event.values for event in events_in(tmp_path) if event.kind == "params"]
        assert params[-1] == recorded


def test_texts_of_one_name_are_all_kept(tmp_path):
    tracker = tracker_in(tmp_path)
    for text in ("one", "two", "one", "three"):
        tracker.log_artifact_text("sub/config.yaml", text)
    names = [event.values["name"] for event in events_in(tmp_path)]
    assert names == ["sub/config.yaml", "sub/config.2.yaml", "sub/config.yaml", "sub/config.3.yaml"]
    assert (tmp_path / "run/artifacts/sub/config.3.yaml").read_text() == "three"


def test_without_mlflow_installed_it_says_so_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with caplog.at_level(logging.INFO, "ctrdist"):
        tracker = tracker_in(tmp_path, config=TrackingConfig())
        tracker.start({})
        tracker.finish("FINISHED")
    said = [r.getMessage() for r in caplog.records if "MLflow" in r.getMessage()]
    assert len(said) == 1 and "not installed" in said[0]
    assert tracker.run_id.startswith("local-")


def test_importing_tracking_and_recording_does_not_import_mlflow(tmp_path):
    code = f"""
import sys
from ctrdist.config.experiment import TrackingConfig
from ctrdist.tracking import RunTracker
tracker = RunTracker({str(tmp_path)!r}, {str(tmp_path)!r}, "r", TrackingConfig(mlflow=False), False)
tracker.start({{}})
tracker.finish("FINISHED")
assert not [m for m in sys.modules if m.split(".")[0] in ("mlflow", "matplotlib", "ray")]
"""
    root = Path(__file__).resolve().parents[3]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=100)


def test_flatten_keeps_every_leaf():
    assert flatten({"a": {"b": 1, "c": {}}, "d": [1]}) == {"a.b": 1, "a.c": {}, "d": [1]}


def test_system_metrics_are_sampled_until_stopped(tmp_path):
    samples: list[dict[str, float]] = []
    sampler = SystemSampler(samples.append, str(tmp_path), interval=0.05)
    sampler.start()
    deadline = time.monotonic() + 20
    while len(samples) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    sampler.stop()
    count = len(samples)
    assert count >= 3
    assert samples[0]["system/process_tree_memory_gib"] > 0.01
    assert 0 < samples[0]["system/memory_percent"] <= 100
    time.sleep(0.2)
    assert len(samples) == count


def test_versions_and_commit(tmp_path, monkeypatch):
    versions = package_versions()
    assert versions["torch"].startswith("2.") and versions["ctrdist"]
    monkeypatch.delenv("CTRDIST_COMMIT", raising=False)
    assert git_commit(tmp_path) is None

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True
        )

    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "a")
    commit = git_commit(tmp_path)
    assert commit is not None and len(commit) == 40
    (tmp_path / "a").write_text("2")
    assert git_commit(tmp_path) == f"{commit}-dirty"
    monkeypatch.setenv("CTRDIST_COMMIT", "given")
    assert git_commit(tmp_path) == "given"


def test_the_default_store_lies_in_the_runs_directory(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    uri, artifacts = tracking_store(Path("runs"))
    assert uri == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert artifacts == f"file://{tmp_path}/runs/mlartifacts"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://u:p@host:5000/x")
    assert tracking_store(Path("runs")) == ("http://u:p@host:5000/x", None)
    assert without_credentials("http://u:p@host:5000/x") == "http://host:5000/x"


@pytest.mark.parametrize(
    "uri", ["localhost:5000", "tracking.example.com", "mlruns", "10.0.0.5:80/x"]
)
def test_an_address_without_a_scheme_is_refused_with_the_remedy(uri):
    with pytest.raises(ConfigError) as refused:
        check_address(f"user:secret@{uri}")
    assert f"MLFLOW_TRACKING_URI={uri} has no scheme. Give http://{uri} or" in str(refused.value)
    for scheme in ("http://", "https://user:secret@", "sqlite:///", "file:///", "postgresql+x://"):
        check_address(scheme + uri)
    for other in ("", "/shared/mlruns", "databricks"):
        check_address(other)


def test_another_store_gets_everything_from_the_beginning(tmp_path):
    state = MlflowState(
        key="k",
        tracking_uri="http://a",
        artifact_location=None,
        experiment="e",
        run_name="r",
        run_id="id",
        delivered=99,
        skipped=[3],
    )
    state.save(tmp_path)
    state.move_to("http://user:secret@a", None)
    assert MlflowState.load(tmp_path) == state
    state.move_to("http://b", None)
    assert (state.run_id, state.delivered, state.skipped) == (None, 0, [])


def test_replay_of_a_directory_without_a_run_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=STATE_NAME):
        replay(str(tmp_path))


def test_a_run_whose_process_was_killed_is_ended_once(tmp_path):
    tracker = tracker_in(tmp_path)
    tracker.start({})
    for _ in range(2):
        end_killed(str(tmp_path / "run"), "others were better")
    finished = [event for event in events_in(tmp_path) if event.kind == "finish"]
    assert [event.values["status"] for event in finished] == ["KILLED"]
    assert finished[0].values["summary"] == {"stopped": "others were better"}
    end_killed(str(tmp_path / "none"), "never begun")
    assert not (tmp_path / "none").exists()
