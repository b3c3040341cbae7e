"""Batches of a split in a deterministic row order, for any number of workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, pairwise
from typing import Any

import numpy as np

from ctrdist.batch import Batch
from ctrdist.config.experiment import LoaderConfig
from ctrdist.data.manifest import Dataset
from ctrdist.data.order import (
    Buffer,
    RowGroup,
    permutation,
    row_groups,
    share,
    shuffled,
    step_bounds,
    stream_buffers,
    stream_count,
)
from ctrdist.data.reader import SplitReader
from ctrdist.data.rows import BatchMaker, Rows
from ctrdist.errors import CheckpointError

STATE_VERSION = 2


class Loader:
    """One worker's part of each step. An epoch has each row of the split once.

    Of each interleaved stream that this worker needs (ctrdist.data.order), one shuffle buffer is in
    memory and a pool of threads reads the next ones. One more thread makes batches of them, ahead
    of the steps. The state counts rows of the global order and knows no worker: any number of
    workers may load it.
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
        pinned: bool = False,
    ) -> None:
        """Plans an epoch of train, valid or test; opens no file yet.

        Batches that are `pinned` lie in page-locked memory, for copies to a GPU. Raises a DataError
        where the split is empty.
        """
        self.rows = dataset.split(split).rows
        self._dataset, self._split, self._config = dataset, split, config
        self._groups = row_groups(dataset.split(split))
        self._seed, self._rank, self._world_size = seed, rank, world_size
        self._shuffle_rows = config.shuffle_rows if shuffle else 0
        if self._shuffle_rows:
            self._streams = stream_count(config.lanes, self._groups)
        else:  # stored order; if any order will do, each worker reads rows of its own
            self._streams = 1 if shuffle else stream_count(world_size, self._groups)
        self._pinned = pinned
        self._reader = SplitReader(dataset, split)
        self._shares: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
        self.epoch = 0
        self.consumed = 0

    @property
    def steps(self) -> int:
        """Remaining steps of this epoch; the same on all workers."""
        return len(step_bounds(self.rows, self._config.batch_size, self.consumed)) - 1

    def __iter__(self) -> Iterator[Batch]:
        """Yields the remaining batches of this epoch.

        `consumed` grows when a batch is yielded, not when it is read ahead.
        """
        for end, batch in self._read_ahead():
            self.consumed = end
            yield batch

    def in_pairs(self) -> Iterator[tuple[Batch, Batch | None]]:
        """Yields each batch and the next one, which is not consumed yet; None at the end."""
        ahead: Iterator[tuple[int, Batch] | None] = chain(self._read_ahead(), [None])
        for current, following in pairwise(ahead):
            assert current is not None
            self.consumed = current[0]
            yield current[1], following and following[1]

    def _read_ahead(self) -> Iterator[tuple[int, Batch]]:
        """Yields (rows of the epoch consumed with it, batch); a thread makes the batches."""
        bounds = step_bounds(self.rows, self._config.batch_size, self.consumed)
        batches = self._batches(bounds)

        def make() -> Batch:
            batch = next(batches)
            return batch.pin_memory() if self._pinned else batch

        ahead = max(1, self._config.prefetch)
        thread = ThreadPoolExecutor(1, f"loader-{self._split}")
        ready: deque[Future[Batch]] = deque()
        try:
            for step, end in enumerate(bounds[1:], 1):
                while len(ready) <= ahead and step + len(ready) < len(bounds):
                    ready.append(thread.submit(make))
                yield int(end), ready.popleft().result()
        finally:
            thread.shutdown(cancel_futures=True)
            batches.close()

    def next_epoch(self) -> None:
        """Begins the following epoch."""
        self.epoch += 1
        self.consumed = 0

    def state_dict(self) -> dict[str, Any]:
        """Returns the position in the global row order, JSON-ready; the same on all ranks."""
        return {
            "version": STATE_VERSION,
            "fingerprint": self._dataset.manifest.fingerprint,
            "split": self._split,
            "seed": self._seed,
            "shuffle_rows": self._shuffle_rows,
            "lanes": self._streams,
            "epoch": self.epoch,
            "consumed": self.consumed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resumes at a saved position, with any number of workers and any batch size.

        Raises:
            CheckpointError: the data set, the seed, the shuffle buffer or the number of streams has
                changed, and with it the row order.
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

    def _batches(self, bounds: np.ndarray) -> Generator[Batch]:
        maker = BatchMaker(self._dataset.schema)
        groups: Sequence[RowGroup] = self._groups
        if self._shuffle_rows:
            groups = shuffled(groups, seed=self._seed, epoch=self.epoch)
        with ThreadPoolExecutor(self._config.threads, f"read-{self._split}") as pool:
            streams: dict[int, _Stream] = {}
            try:
                for begin, end in pairwise(map(int, bounds)):
                    shift, rest = divmod(begin, self._streams)
                    own = self._share(rest, rest + end - begin)
                    new = [
                        (index, first + shift) for index, first, _ in own if index not in streams
                    ]
                    for index, first in new:
                        streams[index] = self._open_stream(groups, index, first, pool, len(own))
                    # the rows of the first batch are read before those of later ones
                    for index, _ in new:
                        streams[index].start_next()
                    parts: list[tuple[Rows, int, int]] = []
                    for index, first, last in own:
                        parts += streams[index].take(first + shift, last + shift)
                    yield maker.batch(
                        parts, global_size=end - begin, stride=-(-(end - begin) // self._world_size)
                    )
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _share(self, begin: int, end: int) -> list[tuple[int, int, int]]:
        """This worker's part of a step that begins in the first round over the streams."""
        key = (begin, end)  # there are few: all steps but the last two have one size
        if key not in self._shares:
            self._shares[key] = share(
                begin, end, streams=self._streams, rank=self._rank, world_size=self._world_size
            )
        return self._shares[key]

    def _open_stream(
        self,
        groups: Sequence[RowGroup],
        index: int,
        first: int,
        pool: ThreadPoolExecutor,
        streams_here: int,
    ) -> _Stream:
        """Returns a stream from its row `first` on; nothing is read yet."""
        size = self._shuffle_rows // self._streams
        buffers = stream_buffers(groups, stream=index, streams=self._streams, buffer_rows=size)
        reader, seed, epoch = self._reader, self._seed, self.epoch

        def read(buffer: Buffer) -> Rows:
            order_W = permutation(buffer, seed=seed, epoch=epoch) if self._shuffle_rows else None
            return reader.read(buffer, order_W)

        # one buffer ahead in each stream, but always work for all threads
        ahead = max(1, -(-(self._config.threads + 1) // streams_here))
        coming = [buffer for buffer in buffers if buffer.end > first]
        return _Stream(coming, lambda buffer: pool.submit(read, buffer), ahead)


class _Stream:
    """The buffers of a stream that are in memory or being read."""

    def __init__(
        self, buffers: Sequence[Buffer], start: Callable[[Buffer], Future[Rows]], ahead: int
    ) -> None:
        """Reads nothing yet; `ahead` buffers will be read ahead of the current one."""
        self._coming, self._start, self._ahead = deque(buffers), start, ahead
        self._held: deque[tuple[Buffer, Future[Rows]]] = deque()

    def take(self, first: int, end: int) -> list[tuple[Rows, int, int]]:
        """Returns the rows first … end − 1 of the stream and drops the buffers before them."""
        while self._held and self._held[0][0].end <= first:
            self._held.popleft()
        while self._coming and len(self._held) < 1 + self._ahead:
            self.start_next()
        parts = []
        position = 0
        while first < end:
            buffer, rows = self._held[position]
            last = min(end, buffer.end)
            parts.append((rows.result(), first - buffer.first, last - buffer.first))
            first, position = last, position + 1
            if first < end and position == len(self._held):
                self.start_next()
        return parts

    def start_next(self) -> None:
        """Starts to read one more buffer, if there is one."""
        if self._coming:
            buffer = self._coming.popleft()
            self._held.append((buffer, self._start(buffer)))
