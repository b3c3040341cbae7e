"""Which of several failed workers began it, and what is said about it."""

from __future__ import annotations

from ray.exceptions import ActorDiedError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from cluster.restart_policy import culprit, is_killed_for_memory, reason
from cluster.worker import ToldToStop
from ctrdist.errors import DataError

DIED = WorkerHealthCheckFailedError("no answer", failure=ActorDiedError())
LOST = RuntimeError("[gloo/pair.cc:534] Connection closed by peer [10.0.0.2]:4711")


def test_a_dead_worker_comes_before_those_that_lost_it():
    assert culprit({0: LOST, 1: DIED, 2: LOST}) == (1, DIED)
    assert reason(DIED) == "its process was killed or crashed"


def test_an_error_of_its_own_comes_before_a_lost_connection():
    bug = KeyError("C7")
    assert culprit({0: LOST, 3: bug}) == (3, bug)
    assert reason(LOST) == "it lost the connection to another worker"
    assert reason(bug) == "KeyError: 'C7'"


def test_what_a_user_can_mend_comes_first():
    wrong = DataError("row 3")
    assert culprit({0: DIED, 1: LOST, 2: wrong}) == (2, wrong)


def test_told_to_stop_is_said_as_it_is():
    assert reason(ToldToStop("node ab is being taken away")) == "node ab is being taken away"


def test_a_worker_killed_for_memory_is_known():
    class Killed(ActorDiedError):
        def __str__(self) -> str:
            return "1 worker(s) were killed due to the node running low on memory. Memory on …"

    assert is_killed_for_memory(WorkerHealthCheckFailedError("", failure=Killed()))
    assert not is_killed_for_memory(DIED) and not is_killed_for_memory(LOST)
