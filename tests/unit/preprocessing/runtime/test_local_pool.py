"""Tasks in processes of this machine: values as they come, faults, and nothing after a stop."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctrdist.errors import DataError
from preprocessing.runtime.local_pool import LocalPool, WorkerDied
from preprocessing.runtime.task_pool import ENDED, Failed


@pytest.fixture
def pool() -> Iterator[LocalPool]:
    opened = LocalPool(2)
    yield opened
    opened.close()


def all_values(pool: LocalPool, handle: object) -> list[object]:
    found: list[object] = []
    while not found or not (found[-1] is ENDED or isinstance(found[-1], Failed)):
        found += [value for _, value in pool.values([handle], 5.0)]
    return found


def count(to: int) -> Iterator[int]:
    yield from range(to)


def slow(folder: str, seconds: float) -> Iterator[str]:
    Path(folder, "begun").touch()
    yield "begun"
    time.sleep(seconds)
    Path(folder, "ended").touch()


def die() -> Iterator[None]:
    os.kill(os.getpid(), signal.SIGKILL)
    yield None


class NeedsTwo(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def fail(kind: str) -> Iterator[int]:
    yield 1
    raise DataError("bad row") if kind == "user" else NeedsTwo(1, 2)


def test_a_worker_runs_one_task_after_another(pool):
    first, second = pool.start(count, 3), pool.start(count, 2)
    assert all_values(pool, first) == [0, 1, 2, ENDED]
    assert all_values(pool, second) == [0, 1, ENDED]
    assert pool.start(count, 0) in (first, second)


def test_values_come_before_the_task_ends(pool, tmp_path):
    handle = pool.start(slow, str(tmp_path), 60.0)
    assert list(pool.values([handle], 10.0)) == [(handle, "begun")]
    pool.stop([handle])


def test_nothing_is_written_after_a_stop_which_does_not_wait(pool, tmp_path):
    handle = pool.start(slow, str(tmp_path), 2.0)
    list(pool.values([handle], 10.0))
    begun = time.monotonic()
    pool.stop([handle])
    assert time.monotonic() - begun < 1.5
    time.sleep(2.5)
    assert [path.name for path in tmp_path.iterdir()] == ["begun"]


def test_a_worker_that_dies_takes_no_other_with_it(pool, tmp_path):
    other, dead = pool.start(slow, str(tmp_path), 0.5), pool.start(die)
    (failed,) = all_values(pool, dead)
    assert failed.worker_died and isinstance(failed.error, WorkerDied)
    assert all_values(pool, other) == ["begun", ENDED]


@pytest.mark.parametrize("kind", ["user", "odd"])
def test_an_error_keeps_its_class_where_that_can_travel_and_its_traceback(pool, kind):
    value, failed = all_values(pool, pool.start(fail, kind))
    assert value == 1 and not failed.worker_died
    if kind == "user":
        assert isinstance(failed.error, DataError) and str(failed.error) == "bad row"
        assert "in fail" in failed.error.__notes__[0]
    else:
        assert "NeedsTwo: 1 and 2" in str(failed.error)
