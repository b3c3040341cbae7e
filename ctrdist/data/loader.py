"""Batches of a split in a deterministic order, each row once in an epoch, on any worker count."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np

from ctrdist.config.experiment import LoaderConfig
from ctrdist.data.manifest import Dataset
from ctrdist.data.order import (
    RowGroup,
    Window,
    lane_count,
    lane_windows,
    permutation,
    row_groups,
    share,
    shuffled,
    step_bounds,
)
from ctrdist.data.reader import SplitReader
from ctrdist.data.rows import BatchMaker, Rows
from ctrdist.errors import CheckpointError
from ctrdist.protocols import Batch

STATE_VERSION = 2


class Loader:
    """One worker's part of each step.

    Of each lane that this worker needs (ctrdist.data.order), one window is in memory and the next
    ones are being read by a pool of threads; one more thread makes batches of them, ahead of the
    steps. The state counts rows of the global order and knows no worker: any number of workers may
    load it.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        config: LoaderConfig,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        batch_size: int | None = None,
        pinned: bool = False,
    ) -> None:
        """Plans an epoch; opens no file yet.

        Args:
            dataset: the data set.
            split: train, valid or test.
            config: window, prefetch and, unless given, batch size.
            seed: of the order.
            rank: this worker.
            world_size: number of workers.
            shuffle: whether rows are permuted.
            batch_size: rows of a step on all workers, in place of the config's.
            pinned: whether batches are in page-locked memory, for copies to a GPU.

        Raises:
            DataError: the split is empty.
        """
        self.rows = dataset.split(split).rows
        self._dataset, self._split, self._config = dataset, split, config
        self._groups = row_groups(dataset.split(split))
        self._seed, self._rank, self._world_size = seed, rank, world_size
        self._shuffle_rows = config.shuffle_rows if shuffle else 0
        if self._shuffle_rows:
            self._lanes = lane_count(config.lanes, self._groups)
        else:  # in stored order; where no order is asked for, each worker reads rows of its own
            self._lanes = 1 if shuffle else lane_count(world_size, self._groups)
        self._batch_size = batch_size or config.batch_size
        self._pinned = pinned
        self._reader = SplitReader(dataset, split)
        self._shares: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
        self.epoch = 0
        self.consumed = 0

    @property
    def steps(self) -> int:
        """Steps left in this epoch; the same on all workers."""
        return len(step_bounds(self.rows, self._batch_size, self.consumed)) - 1

    def __iter__(self) -> Iterator[Batch]:
        """The rest of this epoch.

        `consumed` moves on when a batch is handed out, not when it is read ahead.
        """
        for end, batch in self._read_ahead():
            self.consumed = end
            yield batch

    def in_pairs(self) -> Iterator[tuple[Batch, Batch | None]]:
        """Each batch beside the one after it, which is not yet handed out; None after the last."""
        waiting: tuple[int, Batch] | None = None
        for end, batch in self._read_ahead():
            if waiting is not None:
                self.consumed = waiting[0]
                yield waiting[1], batch
            waiting = end, batch
        if waiting is not None:
            self.consumed = waiting[0]
            yield waiting[1], None

    def _read_ahead(self) -> Iterator[tuple[int, Batch]]:
        """Each batch, made by a thread, and how many rows of the epoch are consumed with it."""
        bounds = step_bounds(self.rows, self._batch_size, self.consumed)
        ready: queue.Queue[Batch | BaseException | None] = queue.Queue(
            maxsize=max(1, self._config.prefetch)
        )
        stop = threading.Event()

        def put(item: Batch | BaseException | None) -> bool:
            while not stop.is_set():
                try:
                    ready.put(item, timeout=0.2)
                    return True
                except queue.Full:
                    continue
            return False

        def work() -> None:
            try:
                for batch in self._batches(bounds):
                    if not put(batch.pin_memory() if self._pinned else batch):
                        return
                put(None)
            except BaseException as error:  # raised again in the consumer
                put(error)

        thread = threading.Thread(target=work, name=f"loader-{self._split}", daemon=True)
        thread.start()
        try:
            for end in bounds[1:]:
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                assert item is not None, "the loader ended before its last step"
                yield int(end), item
        finally:
            stop.set()
            thread.join()

    def next_epoch(self) -> None:
        """Begins the following epoch."""
        self.epoch += 1
        self.consumed = 0

    def state_dict(self) -> dict[str, Any]:
        """Where the run is in the global order of rows; JSON-ready, the same on all ranks."""
        return {
            "version": STATE_VERSION,
            "fingerprint": self._dataset.manifest.fingerprint,
            "split": self._split,
            "seed": self._seed,
            "shuffle_rows": self._shuffle_rows,
            "lanes": self._lanes,
            "epoch": self.epoch,
            "consumed": self.consumed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where the state was taken, with any number of workers and any batch size.

        Raises:
            CheckpointError: the data set, the seed or the window has changed, so the order is
                another one.
        """
        mine = self.state_dict()
        for key in ("version", "fingerprint", "split", "seed", "shuffle_rows", "lanes"):
            if state.get(key) != mine[key]:
                raise CheckpointError(
                    f"the checkpoint's loader has {key} = {state.get(key)!r}, this run has "
                    f"{mine[key]!r}: the order of rows would differ, and rows be lost or seen "
                    "twice. Use the same data and settings, or another --run-name to begin anew."
                )
        self.epoch, self.consumed = int(state["epoch"]), int(state["consumed"])

    # --- the background thread's side ---

    def _batches(self, bounds: np.ndarray) -> Iterator[Batch]:
        maker = BatchMaker(self._dataset.schema)
        groups = (
            shuffled(self._groups, seed=self._seed, epoch=self.epoch)
            if self._shuffle_rows
            else self._groups
        )
        with ThreadPoolExecutor(self._config.threads, f"read-{self._split}") as pool:
            lanes: dict[int, _Lane] = {}
            try:
                for begin, end in pairwise(map(int, bounds)):
                    shift, rest = divmod(begin, self._lanes)
                    own = self._share(rest, rest + end - begin)
                    new = [(lane, first + shift) for lane, first, _ in own if lane not in lanes]
                    for lane, first in new:
                        lanes[lane] = self._open_lane(groups, lane, first, pool, len(own))
                    parts: list[tuple[Rows, int, int]] = []
                    # what the first batch needs is read before what later ones need
                    for lane, _ in new:
                        lanes[lane].start_next()
                    for lane, first, last in own:
                        parts += lanes[lane].take(first + shift, last + shift)
                    yield maker.batch(
                        parts, global_size=end - begin, stride=-(-(end - begin) // self._world_size)
                    )
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _share(self, begin: int, end: int) -> list[tuple[int, int, int]]:
        """This worker's part of a step that begins in the first round over the lanes."""
        key = (begin, end)  # few differ: all steps but the last are of one size
        if key not in self._shares:
            self._shares[key] = share(
                begin, end, lanes=self._lanes, rank=self._rank, world_size=self._world_size
            )
        return self._shares[key]

    def _open_lane(
        self,
        groups: list[RowGroup],
        lane: int,
        first: int,
        pool: ThreadPoolExecutor,
        lanes_here: int,
    ) -> _Lane:
        """A lane from its row `first` on; nothing is read yet."""
        planned = lane_windows(
            groups,
            lane=lane,
            lanes=self._lanes,
            window_rows=self._shuffle_rows // self._lanes,
        )
        reader, seed, epoch = self._reader, self._seed, self.epoch

        def read(window: Window) -> Rows:
            rows = reader.read(window)
            if not self._shuffle_rows:
                return rows
            return rows.permuted(permutation(window, seed=seed, epoch=epoch))

        coming = deque((w, lambda w=w: pool.submit(read, w)) for w in planned if w.end > first)
        # one window ahead in each lane, but always work for all threads
        return _Lane(coming, ahead=max(1, -(-(self._config.threads + 1) // lanes_here)))


class _Lane:
    """The windows of a lane that are in memory or on their way."""

    def __init__(self, coming: deque[tuple[Window, Any]], ahead: int) -> None:
        """Starts to read nothing yet.

        Args:
            coming: windows in order, each with a function that starts to read it and gives its
                future.
            ahead: how many are read ahead of the one that is used.
        """
        self._coming, self._ahead = coming, ahead
        self._held: deque[tuple[Window, Future[Rows]]] = deque()

    def take(self, first: int, end: int) -> list[tuple[Rows, int, int]]:
        """The rows first … end − 1 of the lane; what stands before them is given up."""
        while self._held and self._held[0][0].end <= first:
            self._held.popleft()
        while self._coming and len(self._held) < 1 + self._ahead:
            self.start_next()
        parts = []
        position = 0
        while first < end:
            window, rows = self._held[position]
            last = min(end, window.end)
            parts.append((rows.result(), first - window.first, last - window.first))
            first, position = last, position + 1
            if first < end and position == len(self._held):
                self.start_next()
        return parts

    def start_next(self) -> None:
        """Starts to read one more window, if there is one."""
        if self._coming:
            window, start = self._coming.popleft()
            self._held.append((window, start()))
