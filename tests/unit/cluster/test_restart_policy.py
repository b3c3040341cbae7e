"""The failed worker that is reported, and the reason given."""

from ray.exceptions import ActorDiedError

from cluster.ray_train_internals import WorkerHealthCheckFailedError
from cluster.restart_policy import (
    comes_again,
    failure_reason,
    first_failure,
    is_killed_for_memory,
)
from cluster.worker import ToldToStop
from ctrdist.errors import DataError

DIED = WorkerHealthCheckFailedError("no answer", failure=ActorDiedError())
LOST = RuntimeError("[gloo/pair.cc:534] Connection closed by peer [10.0.0.2]:4711")


def test_a_dead_worker_comes_before_those_that_lost_it():
    assert first_failure({0: LOST, 1: DIED, 2: LOST}) == (1, DIED)
    assert failure_reason(DIED) == "its process was killed or crashed"


def test_an_error_of_its_own_comes_before_a_lost_connection():
    bug = KeyError("C7")
    assert first_failure({0: LOST, 3: bug}) == (3, bug)
    assert failure_reason(LOST) == "it lost the connection to another worker"
    assert failure_reason(bug) == "KeyError: 'C7'"
    assert comes_again(bug) and not comes_again(LOST)
    assert not comes_again(DIED) and not comes_again(ToldToStop("node ab leaves"))


def test_a_users_mistake_comes_first():
    wrong = DataError("row 3")
    assert first_failure({0: DIED, 1: LOST, 2: wrong}) == (2, wrong)


def test_the_reason_to_stop_is_passed_on_unchanged():
    text = "node ab is being taken away"
    assert failure_reason(ToldToStop(text)) == text


def test_a_worker_killed_for_memory_is_recognised():
    class Killed(ActorDiedError):
        def __str__(self) -> str:
            return "1 worker(s) were killed due to the node running low on memory. Memory on …"

    assert is_killed_for_memory(WorkerHealthCheckFailedError("", failure=Killed()))
    assert not is_killed_for_memory(DIED) and not is_killed_for_memory(LOST)
