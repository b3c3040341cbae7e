"""The tags of an experiment for MLflow's pages, and the replay of a run of an older version."""

import importlib.util
import json
import shutil
from pathlib import Path

from ctrdist.config.experiment import TrackingConfig
from ctrdist.tracking import RunTracker, replay
from ctrdist.tracking.mlflow_page import VIEW_TAG, experiment_tags


def test_an_experiment_that_is_there_gets_the_tags_that_it_lacks(tmp_path, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)  # MLflow puts artifacts into the working directory.
    store = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/server.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.tracking_uri)
    # somebody has changed the view
    made = store.create_experiment("test", tags={VIEW_TAG: "own"})
    config = TrackingConfig(experiment="test")
    tracker = RunTracker(str(tmp_path / "run"), str(tmp_path), "run", config, False)
    tracker.start({})
    tracker.finish("FINISHED")
    assert tracker.undelivered == []
    assert store.get_experiment(made).tags == {**experiment_tags(), VIEW_TAG: "own"}
    address, _, query = tracker.page.partition("?")
    assert address == f"http://127.0.0.1:5000/#/experiments/{made}/runs"
    assert query == "workflowType=machine_learning&viewStateShareKey=ctrdist"


def test_the_installed_pages_know_what_the_saved_view_says():
    state = json.loads(json.loads(experiment_tags()[VIEW_TAG])["state"])
    pages = Path(importlib.util.find_spec("mlflow").origin).parent / "server/js/build/static/js"
    code = "".join(path.read_text() for path in pages.glob("main.*.js"))
    words = ("viewStateShareKey", "workflowType", "machine_learning", "mlflow.sharedViewState.")
    assert [word for word in (*words, *state, "Model metrics") if word not in code] == []


def test_a_run_recorded_in_november_2026_is_replayed(tmp_path, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)  # MLflow puts artifacts into the working directory.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    run = shutil.copytree(Path(__file__).parents[1] / "files" / "run_202611", tmp_path / "run")
    run_id = replay(str(run))
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    assert [point.step for point in client.get_metric_history(run_id, "train/loss")] == [20]
    stored = client.get_run(run_id)
    assert stored.info.status == "FINISHED" and stored.data.tags["data"] == "tiny"
