"""Prefetching during a step: the next batch's copy to the GPU, and the exchange of its ids.

TorchRec's TrainPipelineSparseDist does the same, but its progress() is the whole step: forward,
backward and optimiser, with batches taken from the loader well ahead. Our step looks at the loss of
all workers between forward and backward, may run the tower in micro-batches, and counts a row only
when it is trained on. TorchRec would also trace the model with torch.fx to find which ids go into
which tables, which is known here. So this uses what each sharded module offers for it: input_dist
begins to send ids to the holders of their rows, and compute_and_output_dist does the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ctrdist.batch import Batch
from ctrdist.data.loader import Loader
from ctrdist.errors import ConfigError
from ctrdist.training.build import Engine


class Prefetcher:
    """Hands out batches with their copies on the device, as the setting train.pipeline says."""

    def __init__(self, engine: Engine) -> None:
        """Decides whether to prefetch.

        Raises:
            ConfigError: train.pipeline asks for what is not possible here.
        """
        self._device = engine.world.device
        setting = engine.experiment.train.pipeline
        self._lookup: _PrefetchedLookup | None = None
        self._following: Batch | None = None
        self._prepared: Batch | None = None
        """The batch after this step's, and its copy on the device."""
        if setting == "sparse_dist" or (setting == "auto" and self._device.type == "cuda"):
            self._lookup = _PrefetchedLookup(_sharded_tables(engine), self._device)

    def batches(self, loader: Loader) -> Iterator[tuple[Batch, Batch]]:
        """The rest of the loader's epoch: each batch as it was read, and on the device."""
        if self._lookup is None:
            for batch in loader:
                yield batch, batch.to(self._device, non_blocking=True)
            return
        try:
            for batch, self._following in loader.in_pairs():
                on_device = self._prepared or self._lookup.prepare(batch)
                self._prepared = None
                self._lookup.wait_for_copy(on_device)
                yield batch, on_device
        finally:
            self._following = self._prepared = self._lookup.pending = None

    def prepare_next(self) -> None:
        """Prepares the next batch, if there is one; every rank calls it after its forward pass.

        If it came earlier, computation would wait for the copy, which goes first on the same stream
        as what the forward pass waits for. On a GPU the forward pass is still running.
        """
        if self._lookup is not None and self._following is not None:
            self._prepared = self._lookup.prepare(self._following)


@dataclass
class _Pending:
    """Ids on their way to the holders of their rows."""

    features: KeyedJaggedTensor
    context: Any
    ids: Any
    """TorchRec's awaitable of them."""


class _PrefetchedLookup:
    """Prepares batches, and replaces the forward method of the sharded tables."""

    def __init__(self, tables: ShardedEmbeddingBagCollection, device: torch.device) -> None:
        self._tables, self._device = tables, device
        # with priority: it is little work, and the next step waits for it
        self._stream = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None
        self._plain = tables.forward
        self.pending: _Pending | None = None
        # an attribute of the instance precedes the method of its class
        tables.forward = self

    def prepare(self, batch: Batch) -> Batch:
        """Copies a batch to the device and sends its ids; every rank calls it."""
        batch.sparse.length_per_key()  # counted here, where it does not wait for the device
        with self._side_stream():
            on_device = batch.to(self._device, non_blocking=True)
            context = self._tables.create_context()
            # waits until each rank knows how many ids it gets from which
            ids = self._tables.input_dist(context, on_device.sparse).wait()
        self.pending = _Pending(on_device.sparse, context, ids)
        return on_device

    def wait_for_copy(self, batch: Batch) -> None:
        """Makes computation wait for the batch's copy."""
        if self._stream is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_stream(self._stream)
            batch.record_stream(current)

    def __call__(self, features: KeyedJaggedTensor) -> Any:
        """Looks up rows, for prepared ids or for any others."""
        pending, self.pending = self.pending, None
        if pending is None or pending.features is not features:
            return self._plain(features)
        with self._side_stream():
            ids = pending.ids.wait()
        if self._stream is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_stream(self._stream)
            ids.record_stream(current)
            pending.context.record_stream(current)
        return self._tables.compute_and_output_dist(pending.context, ids)

    def _side_stream(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)


def _sharded_tables(engine: Engine) -> ShardedEmbeddingBagCollection:
    """The sharded tables of the fields.

    Raises:
        ConfigError: their lookup is not TorchRec's.
    """
    (tables,) = (m for m in engine.model.modules() if isinstance(m, ShardedEmbeddingBagCollection))
    if "forward" in tables.__dict__:
        raise ConfigError(
            "train.pipeline = sparse_dist, but these CPU workers exchange ids through shared "
            "memory, which is faster. Leave train.pipeline out, or set sharding.shared_memory "
            "false."
        )
    return tables
