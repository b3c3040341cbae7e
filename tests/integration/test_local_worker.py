"""One worker on this machine runs without Ray, with the results and the faults of one with Ray."""

import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.local_worker import LocalWorker
from cluster.worker_task import WorkerTask
from ctrdist.training.faults.stopping import StopRequest
from ctrdist.training.observe import messages
from tests.datasets import write_dataset
from tests.faults import Job, assert_same_end

ROWS = 3001


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data")
    write_dataset(path, {"train": ROWS, "valid": 300, "test": 300}, multi_valued=True)
    return str(path)


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory) -> dict:
    """The worker of Ray Train."""
    runs = tmp_path_factory.mktemp("runs")
    result = Job(data, runs, "ray", {"workers": 1}, env={"RAY_ADDRESS": "local"}).result()
    assert result["rows_seen"] == 2 * ROWS
    return result


def test_a_killed_worker_is_started_again_and_the_end_is_that_of_ray(data, undisturbed, tmp_path):
    job = Job(data, tmp_path, "a", {"workers": 1})
    job.wait_for_step(34)
    started = job.started()
    assert not [each.name() for each in started if each.name().startswith(("ray", "gcs"))]
    worker(job).kill()
    assert_same_end(job.result(), undisturbed)
    told = [line for line in job.err.splitlines() if "start again" in line]
    assert len(told) == 1 and "its process was killed" in told[0], job.err
    assert told[0].endswith("(restart 1 of 3)") and "Traceback" not in job.err


def test_a_run_that_is_told_to_end_saves_and_resumes(data, undisturbed, tmp_path):
    """Told twice: with SIGTERM and, once it has resumed, with Ctrl-C."""
    for after, signum, code in ((33, signal.SIGTERM, 143), (66, signal.SIGINT, 130)):
        job = Job(data, tmp_path, "a", {"workers": 1})
        job.wait_for_step(after)
        job.process.send_signal(signum)
        assert job.wait() == code
        (line,) = [line for line in job.err.splitlines() if line.startswith("interrupted at step")]
        step = int(line.split()[3].rstrip(";"))
        assert step >= after
        assert Path(job.run_dir, "checkpoints", f"step-{step:09d}", "complete.json").is_file()
    assert_same_end(Job(data, tmp_path, "a", {"workers": 1}).result(), undisturbed)


def test_the_worker_ends_with_the_command(data, tmp_path):
    job = Job(data, tmp_path, "a", {"workers": 1})
    job.wait_for_step(5)
    alive = worker(job)
    job.process.kill()
    _, left = psutil.wait_procs([alive], timeout=10)
    assert not left


def test_an_exception_is_not_tried_again():
    task = WorkerTask("evaluate", {"model_name": "dlf"}, {"unknown": 1}, 0, ("job",))
    started = time.monotonic()
    with LocalWorker(task, max_restarts=3) as workers:
        assert workers.ended.wait(60)
    kinds = [type(message) for message in workers.drain()]
    assert kinds == [messages.Crash], time.monotonic() - started
    assert "unknown" in str(workers.error)


@dataclass(frozen=True)
class StoreFailsOnce(WorkerTask):
    def run(self, rank: int, device: Any, emit: messages.Emit, stop: StopRequest) -> None:
        failed = Path(self.arguments["folder"], "failed")
        if not failed.exists():
            failed.touch()
            emit(messages.Crash(rank=0, traceback="the store is away"))
            raise ConnectionError("the store is away")
        emit(messages.Done(summary={"steps": 3}))


def test_after_a_failure_of_the_store_the_run_ends_well(tmp_path):
    task = StoreFailsOnce("train", {}, {"folder": str(tmp_path)}, 0, ("job",))
    with LocalWorker(task, max_restarts=1) as workers:
        assert workers.ended.wait(60)
    kinds = [type(message) for message in workers.drain()]
    assert kinds == [messages.Crash, messages.Failure, messages.Done]
    assert workers.error is None


def worker(job: Job) -> psutil.Process:
    """The process in which the job trains."""
    (found,) = [each for each in job.started() if "spawn_main" in " ".join(each.cmdline())]
    return found
