"""The records of a run at its start."""

import json
from types import SimpleNamespace

import pytest

from ctrdist.config.experiment import Experiment, TrackingConfig
from ctrdist.data.manifest import Dataset, Manifest, Split
from ctrdist.schema import CategoricalField, Schema
from ctrdist.tracking import RunTracker
from ctrdist.tracking.events import EVENTS_NAME, read_events
from ctrdist.training.observe import messages
from ctrdist.training.observe.recording import Tracking


@pytest.mark.parametrize("reported", [True, False])
def test_the_report_of_the_data_set_is_recorded_where_it_has_one(tmp_path, reported):
    data, run = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    summary = {"rows_read": 12, "warnings": [{"column": "c", "kind": "drift"}]}
    if reported:
        (data / "report.json").write_text(json.dumps({"summary": summary}))
        (data / "report.html").write_text("<p>")
    schema = Schema(name="tiny", categorical=(CategoricalField(name="c", vocabulary_size=3),))
    splits = {"train": Split(files=(), rows=9, positives=1)}
    manifest = Manifest(schema_fingerprint=schema.fingerprint, splits=splits)
    engine = SimpleNamespace(
        experiment=Experiment(data=str(data)),
        layout=SimpleNamespace(to_json=lambda: "{}"),
        dataset=Dataset(path=str(data), schema=schema, manifest=manifest),
    )
    tracker = RunTracker(str(run), str(run), "run", TrackingConfig(mlflow=False), False)
    start = messages.Start(
        run_name="run",
        model="dlf",
        resumed_step=0,
        steps_per_epoch=1,
        dense_parameters=0,
        table_parameters=3,
        tables=1,
        kinds=[],
        bytes_per_rank=[],
        device="cpu",
        workers=1,
    )
    Tracking(tracker, 1).on_start(engine, start)
    tracker.finish("FINISHED")
    events, _ = read_events(run / EVENTS_NAME, 0)
    (dataset,) = [event.values for event in events if event.kind == "dataset"]
    assert dataset["profile"] == (summary if reported else {}) and dataset["rows"] == {"train": 9}
    page = run / "artifacts" / "data" / "report.html"
    assert page.exists() == reported and (not reported or page.read_text() == "<p>")
