"""Many profiles are merged by tasks: the driver reads few, however long the log is."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa

from ctrdist.features.encode import Encoded, LocalRows
from ctrdist.schema import CategoricalField, Schema
from ctrdist.storage import Store
from preprocessing.runtime.task_runner import Call
from preprocessing.runtime.work_dir import to_json
from preprocessing.statistics.profile import Profile
from preprocessing.write import task

SCHEMA = Schema(
    name="s", numeric=("x",), categorical=(CategoricalField(name="c", vocabulary_size=9),)
)


class Runner:
    """Runs tasks in this process, and counts them."""

    calls = 0

    def call(self, task: str, name: str, *arguments: object) -> Call:
        return Call(task, name, arguments)

    def run(self, title, task, calls, kind):
        self.calls += len(calls)
        return [task(*call.arguments) for call in calls]


def test_profiles_are_merged_in_a_tree(tmp_path, rng, monkeypatch):
    store, whole = Store(str(tmp_path)), Profile.empty(SCHEMA)
    names = [f"profile/{k}" for k in range(10)]
    for k, name in enumerate(names):
        part = Profile.empty(SCHEMA)
        split = rng.integers(0, 3, 20).astype(np.int8)
        numbers, ids = {"x": rng.integers(0, 9, 20).astype(float)}, rng.integers(1, 9, 20)
        label = np.ones(20, np.float32)
        encoded = Encoded(pa.table({}), {"c": ids.astype(np.int32)}, {})
        part.add(split, LocalRows(label, numbers), encoded, index=20 * k + np.arange(len(label)))
        store.put(name, to_json(part))
        whole.merge(part)
    monkeypatch.setattr(task, "PROFILES_PER_TASK", 3)
    writing, runner = SimpleNamespace(work=SimpleNamespace(store=store)), Runner()
    found = task._merged_profile(writing, names, runner)  # type: ignore[arg-type]
    assert to_json(found) == to_json(whole)
    assert runner.calls == 4 + 2
