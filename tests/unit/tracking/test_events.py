"""events.jsonl: what is written is read, whatever happens in between."""

import json
import threading
from pathlib import Path

import numpy as np
import torch

from ctrdist.tracking.events import (
    Artifact,
    DatasetUse,
    EventLog,
    Finish,
    all_events,
    metric_history,
    read_events,
)


def test_values_survive_the_file(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    log.append("metrics", {"a": 0.1, "nan": float("nan"), "inf": float("-inf")}, step=3)
    log.append(
        "params", {"t": torch.tensor(2.5), "n": np.int64(3), "l": (1, {"x": None}), "ä": "é"}
    )
    log.close()
    (first, second), end = read_events(tmp_path / "events.jsonl", 0)
    assert (first.kind, first.step) == ("metrics", 3)
    assert first.values == {"a": 0.1, "nan": "nan", "inf": "-inf"}
    assert np.isnan(float(first.values["nan"]))
    assert second.values == {"t": 2.5, "n": 3.0, "l": [1, {"x": None}], "ä": "é"}
    assert (first.start, second.start, second.end) == (0, first.end, end)
    assert end == (tmp_path / "events.jsonl").stat().st_size


def test_each_line_is_json_of_its_own(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    log.append("metrics", {"a": float("nan")}, step=1)
    log.append("artifact", {"text": "two\nlines"})
    for line in (tmp_path / "events.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: 1 / 0)  # NaN would be no JSON


def test_reading_in_small_blocks_gives_every_event_once(tmp_path):
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    for i in range(50):
        log.append("metrics", {"a" * (i * 7 + 1): i}, step=i)
    steps, offset = [], 0
    while True:
        events, end = read_events(path, offset, max_bytes=200)
        if end == offset:
            break
        steps += [event.step for event in events]
        offset = end
    assert steps == list(range(50))


def test_an_unfinished_line_is_left_out_and_hurts_no_other(tmp_path):
    path = tmp_path / "events.jsonl"
    EventLog(path).append("metrics", {"a": 1}, step=1)
    whole = path.stat().st_size
    with path.open("a") as file:
        file.write('{"time": 12, "kind": "metr')
    events, end = read_events(path, 0)
    assert [event.step for event in events] == [1] and end == whole  # may still be completed
    EventLog(path).append("metrics", {"a": 2}, step=2)
    events, end = read_events(path, 0)
    assert [event.step for event in events] == [1, 2] and end == path.stat().st_size


def test_threads_do_not_mix_their_lines(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")

    def write(thread: int) -> None:
        for i in range(200):
            log.append("metrics", {"x": i}, step=thread)

    threads = [threading.Thread(target=write, args=(t,)) for t in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events, _ = read_events(tmp_path / "events.jsonl", 0)
    assert len(events) == 800
    assert [e.values["x"] for e in events if e.step == 2] == list(range(200))


def test_events_written_in_november_2026_are_read(tmp_path):
    """The file is that of commit f00b060. Later versions must read it, and write the same keys."""
    path = Path(__file__).parents[2] / "files" / "run_202611" / "events.jsonl"
    old = {event.kind: event.values for event in all_events(path)}
    assert Artifact(**old["artifact"]).path == "artifacts/summary.json"
    used = DatasetUse(**old["dataset"])
    assert used.rows == {"train": 10}
    finish = Finish(**old["finish"])
    assert finish.status == "FINISHED" and finish.summary["test"] == {"auc": 0.7}
    assert metric_history(path, ("train/", "final/")) == {
        "train/loss": {20: 0.5},
        "final/test/auc": {0: 0.7},
    }
    log = EventLog(tmp_path / "events.jsonl")
    for record in (Artifact(**old["artifact"]), used, finish):
        log.record(record)
    new = {event.kind: event.values for event in all_events(log.path)}
    assert new == {kind: old[kind] for kind in ("artifact", "dataset", "finish")}
    del old["dataset"]["profile"]  # Earlier versions wrote none.
    assert DatasetUse(**old["dataset"]).profile == {}
