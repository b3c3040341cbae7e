"""Processes of a training job are killed, stopped and told to end, and nothing is lost."""

import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.datasets import write_dataset
from tests.faults import ROOT, Job, assert_same_end

DEFECT = """
import importlib.util, sys

class Defect:
    def find_spec(self, name, path=None, target=None):
        if name == "ctrdist.data.reader":
            sys.meta_path.remove(self)
            spec = importlib.util.find_spec(name)
            run = spec.loader.exec_module
            spec.loader.exec_module = lambda m: (run(m), setattr(m.SplitReader, "read", 3))
            return spec

sys.meta_path.insert(0, Defect())
"""
"""A defect of our code, in every process: Python imports sitecustomize.py as it starts."""
ROWS = 3001  # 121 steps of 50 in two epochs


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data")
    write_dataset(path, {"train": ROWS, "valid": 300, "test": 300}, multi_valued=True)
    return str(path)


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory) -> dict:
    """Two workers, started without Ray: what they compute does not depend on who started them."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    result = Job(data, tmp_path_factory.mktemp("runs"), "a", {}, launcher=launcher).result()
    assert result["rows_seen"] == 2 * ROWS
    return result


def test_a_killed_worker_is_started_again_and_the_end_is_the_same(data, undisturbed, tmp_path):
    job = Job(data, tmp_path, "b", {"workers": 2})
    job.wait_for_step(34)
    job.workers()[-1].kill()
    killed = time.monotonic()
    while "start again" not in job.err:
        assert time.monotonic() - killed < 15, job.err
        time.sleep(0.1)
    assert_same_end(job.result(), undisturbed)
    told = [line for line in job.err.splitlines() if "start again" in line]
    assert len(told) == 1, job.err
    # Ray numbers the workers in another order than it starts them
    assert re.match(r"worker [01] failed \(its process was killed or crashed\)", told[0])
    # the checkpoint of step 30 may still be on its way when the worker dies
    assert re.search(r"the workers start again from step [23]0 \(restart 1 of 3\)$", told[0])
    assert "raylet" not in job.out + job.err and "Traceback" not in job.err
    tags = [
        json.loads(line)["values"]
        for line in (job.run_dir / "events.jsonl").read_text().splitlines()
        if json.loads(line)["kind"] == "tags"
    ]
    assert [tag["restarts"] for tag in tags if "restarts" in tag] == ["0", "1"]


def test_an_error_that_would_come_again_is_not_tried_again(tmp_path):
    write_dataset(tmp_path / "data", {"train": 1000, "valid": 300, "test": 300})
    (tmp_path / "sitecustomize.py").write_text(DEFECT)
    path = os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = {"PYTHONPATH": path}
    job = Job(str(tmp_path / "data"), tmp_path / "runs", "c", {"workers": 2}, env)
    assert job.wait() == 1
    assert "start again" not in job.err
    assert len(re.findall(r"^TypeError: ", job.err, re.MULTILINE)) == 1, job.err
    starts = (job.run_dir / "events.jsonl").read_text().count('"kind": "start"')
    assert starts == 1


@pytest.mark.slow
def test_a_loss_that_is_not_finite_leaves_its_rows_and_is_not_tried_again(data, tmp_path):
    write_dataset(tmp_path / "data", {"train": 1000, "valid": 300, "test": 300})
    file = tmp_path / "data/train/part-00001.parquet"
    table = pq.read_table(file)
    values = table["I0"].to_numpy().copy()
    values[77] = np.inf  # row 577 of the split
    pq.write_table(table.set_column(0, "I0", pa.array(values)), file, row_group_size=50)

    job = Job(str(tmp_path / "data"), tmp_path / "runs", "c", {"workers": 2})
    assert job.wait() == 2
    assert "start again from" not in job.err and "Traceback" not in job.err
    errors = [line for line in job.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "the loss is not finite on worker" in errors[0]
    named = Path(errors[0].split("read_parquet('")[1].split("'")[0])
    kept, origin = pq.read_table(named), json.loads(named.with_suffix(".json").read_text())
    assert 577 in origin["rows"] and 77 in origin["files"]["train/part-00001.parquet"]
    assert kept["__row"].to_pylist() == origin["rows"]
    row = origin["rows"].index(577)
    assert np.isinf(kept["I0"][row].as_py()) and kept["C0"][row] == table["C0"][77]


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_driver_told_to_end_saves_and_goes_on_later(data, undisturbed, tmp_path, signum, code):
    job = Job(data, tmp_path, "d", {"workers": 2})
    job.wait_for_step(33)
    job.process.send_signal(signum)
    assert job.wait() == code
    (line,) = [line for line in job.err.splitlines() if line.startswith("interrupted at step")]
    step = int(line.split()[3].rstrip(";"))
    assert (job.run_dir / "checkpoints" / f"step-{step:09d}" / "complete.json").is_file()
    assert "Traceback" not in job.err
    again = Job(data, tmp_path, "d", {"workers": 2})
    assert_same_end(again.result(), undisturbed)
    assert f"resumes from step {step}" in again.err


@pytest.mark.slow
def test_workers_of_torchrun_told_to_end_save_and_go_on_later(data, undisturbed, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    job = Job(data, tmp_path, "e", {}, launcher=launcher)
    job.wait_for_step(33)
    job.process.send_signal(signal.SIGTERM)
    assert job.wait() != 0
    (line,) = [line for line in job.err.splitlines() if line.startswith("interrupted at step")]
    again = Job(data, tmp_path, "e", {}, launcher=launcher)
    assert_same_end(again.result(), undisturbed)
    assert f"resumes from step {line.split()[3].rstrip(';')}" in again.err


@pytest.mark.slow
def test_a_worker_told_to_end_saves_and_is_started_again(data, undisturbed, tmp_path):
    job = Job(data, tmp_path, "f", {"workers": 2, "checkpoint.every_steps": 0})
    job.wait_for_step(33)
    job.workers()[-1].terminate()
    assert_same_end(job.result(), undisturbed)
    (line,) = [line for line in job.err.splitlines() if "start again" in line]
    assert line.startswith("a worker received SIGTERM") and "from the beginning" not in line


@pytest.mark.slow
def test_workers_that_hang_leave_their_stacks_and_are_started_again(data, undisturbed, tmp_path):
    job = Job(data, tmp_path, "g", {"workers": 2, "faults.step_timeout_s": 10})
    job.wait_for_step(33)
    stopped = job.workers()[-1]
    stopped.suspend()
    assert_same_end(job.result(), undisturbed)
    assert "worker 0: nothing finished for 10 s" in job.err
    assert "hung for 10 s" in job.err and "start again from step" in job.err
    stacks = (job.run_dir / "stacks/rank-0.txt").read_text()
    assert "in take" in stacks or "_checkpoint" in stacks
    assert not stopped.is_running()


@pytest.mark.slow
def test_restarts_have_an_end(data, tmp_path):
    settings = {"workers": 1, "faults.max_restarts": 0}
    job = Job(data, tmp_path, "h", settings, env={"RAY_ADDRESS": "local"})
    job.wait_for_step(23)
    job.workers()[0].kill()
    assert job.wait() == 2
    assert "worker 0 died: its process was killed or crashed" in job.err
    assert "faults.max_restarts is 0" in job.err and "resume from step 20" in job.err
    assert "Traceback" not in job.err


def test_bad_bounds_are_refused(data, tmp_path):
    for settings, message in [
        ({"workers": 2, "min-workers": 3}, "--min-workers 3: from 1 to --workers 2"),
        ({"faults.max_restarts": -2}, "faults.max_restarts -2"),
        ({"faults.step_timeout_s": -1}, "faults.step_timeout_s -1.0"),
    ]:
        job = Job(data, tmp_path, "i", settings)
        assert job.wait() == 2
        assert message in job.err
        assert not Path(job.run_dir).exists()
