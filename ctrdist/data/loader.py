"""Batches of a split in a deterministic order, each row once in an epoch, on any worker count."""

from __future__ import annotations

import posixpath
import queue
import threading
from collections import deque
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ctrdist.config.experiment import LoaderConfig
from ctrdist.data.manifest import Dataset
from ctrdist.data.order import Window, permutation, row_groups, share, step_bounds, windows
from ctrdist.data.rows import BatchMaker, Rows, columns, from_table
from ctrdist.errors import CheckpointError, DataError
from ctrdist.protocols import Batch

STATE_VERSION = 1


class Loader:
    """One worker's part of each step.

    A background thread reads windows ahead and makes batches, so that reading overlaps with
    computing. The state counts rows of the global order and knows no worker: any number of workers
    may load it.
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

        Raises:
            DataError: the split is empty.
        """
        self.rows = dataset.split(split).rows
        self._dataset, self._split, self._config = dataset, split, config
        self._groups = row_groups(dataset.split(split))
        self._seed, self._rank, self._world_size = seed, rank, world_size
        self._window_rows = config.shuffle_rows if shuffle else 0
        self._batch_size = batch_size or config.batch_size
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
                    if not put(batch):
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
                self.consumed = int(end)
                yield item
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
            "shuffle_rows": self._window_rows,
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
        for key in ("version", "fingerprint", "split", "seed", "shuffle_rows"):
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
        plan = windows(
            self._groups, window_rows=self._window_rows, seed=self._seed, epoch=self.epoch
        )
        coming = deque(window for window in plan if window.first_position + window.rows > bounds[0])
        held: deque[tuple[Window, Rows, np.ndarray]] = deque()
        for begin, end in pairwise(bounds):
            first, last = share(int(begin), int(end), self._rank, self._world_size)
            while held and held[0][0].first_position + held[0][0].rows <= first:
                held.popleft()
            while coming and coming[0].first_position < last:
                window = coming.popleft()
                if window.first_position + window.rows > first:
                    order = permutation(
                        window, shuffled=self._window_rows > 0, seed=self._seed, epoch=self.epoch
                    )
                    held.append((window, self._read(window), order))
            picks = []
            for window, rows, order in held:
                low = max(first - window.first_position, 0)
                high = min(last - window.first_position, window.rows)
                if low < high:
                    picks.append((rows, order[low:high]))
            step_rows = int(end - begin)
            yield maker.batch(
                picks, global_size=step_rows, stride=-(-step_rows // self._world_size)
            )

    def _read(self, window: Window) -> Rows:
        files = self._dataset.split(self._split).files
        fs, root = fsspec.core.url_to_fs(self._dataset.path)
        tables = []
        for group in window.groups:
            path = files[group.file].path
            full = posixpath.join(root, path)
            try:
                with fs.open(full, "rb") as handle, pq.ParquetFile(handle) as parquet:
                    table = parquet.read_row_group(
                        group.index, columns=columns(self._dataset.schema)
                    )
            except MemoryError:  # Arrow's own is an ArrowException too, and the file is sound
                raise
            except (OSError, pa.ArrowException) as error:
                raise DataError(
                    f"{self._dataset.path}/{path}: cannot be read ({error}). The data set is "
                    "damaged or incomplete; run jobs/preprocess.py again."
                ) from error
            if table.num_rows != group.rows:
                raise DataError(
                    f"{self._dataset.path}/{path}: row group {group.index} has {table.num_rows} "
                    f"rows, the manifest says {group.rows}. The file was changed; run "
                    "jobs/preprocess.py again."
                )
            tables.append(table)
        row_W = np.concatenate(
            [np.arange(g.first_row, g.first_row + g.rows) for g in window.groups]
        )
        where = f"{self._dataset.path}/{files[window.groups[0].file].path}"
        return from_table(pa.concat_tables(tables), self._dataset.schema, row_W, where)
