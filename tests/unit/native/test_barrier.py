"""Nobody passes a barrier before all have arrived."""

from concurrent.futures import ThreadPoolExecutor

import torch

from ctrdist.native.barrier import CACHE_LINE, arrive, await_all, has_barrier

WORKERS, ROUNDS = 3, 200


def test_all_arrive_before_one_goes_on():
    assert has_barrier(), "the tests need a C compiler"
    counters = torch.zeros(WORKERS * CACHE_LINE, dtype=torch.uint8)
    rounds = torch.zeros(WORKERS, dtype=torch.int64)

    def work(worker: int) -> None:
        for turn in range(ROUNDS):
            rounds[worker] = turn + 1
            assert await_all(counters, arrive(counters, worker), 10_000) is None
            assert int(rounds.min()) >= turn + 1

    with ThreadPoolExecutor(WORKERS) as pool:
        for done in [pool.submit(work, worker) for worker in range(WORKERS)]:
            done.result()


def test_a_worker_that_does_not_come_is_named():
    counters = torch.zeros(2 * CACHE_LINE, dtype=torch.uint8)
    assert await_all(counters, arrive(counters, 0), 10) == 1
