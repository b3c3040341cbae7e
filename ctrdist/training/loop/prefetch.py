"""Prefetching during a step: the next batch's copy to the GPU, and the exchange of its ids.

This uses what each sharded module of TorchRec offers for it: input_dist begins to send ids to the
holders of their rows, and compute_and_output_dist does the rest. docs/decisions.md says why it does
not use TorchRec's TrainPipelineSparseDist.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ctrdist.batch import Batch
from ctrdist.errors import ConfigError
from ctrdist.training.build import Engine

LookUp = Callable[[KeyedJaggedTensor], Any]


class Batches(Protocol):
    """The batches of an epoch, such as a loader."""

    def __iter__(self) -> Iterator[Batch]:
        """Yields the batches that are left."""
        ...

    def in_pairs(self) -> Iterator[tuple[Batch, Batch | None]]:
        """Yields each batch and the next one; None at the end."""
        ...


class Prefetcher:
    """Hands out batches with their copies on the device, as the setting train.pipeline says."""

    def __init__(self, engine: Engine) -> None:
        """Decides whether to prefetch.

        Raises:
            ConfigError: train.pipeline asks for what is not possible here.
        """
        self._device = engine.world.device
        setting = engine.experiment.train.pipeline
        self._tables: ShardedEmbeddingBagCollection | None = None
        self.look_up: LookUp | None = None
        """Looks up the tables of a batch; None without prefetching."""
        self._following: Batch | None = None
        self._prepared: Batch | None = None
        """The batch after this step's, and its copy on the device."""
        self._sent: tuple[KeyedJaggedTensor, Any, Any] | None = None
        """Ids on their way to the holders of their rows, TorchRec's context and awaitable."""
        self._stream: torch.cuda.Stream | None = None
        if setting == "sparse_dist" or (setting == "auto" and self._device.type == "cuda"):
            self._tables, self.look_up = _sharded_tables(engine), self._look_up
            if self._device.type == "cuda":
                # with priority: it is little work, and the next step waits for it
                self._stream = torch.cuda.Stream(self._device, priority=-1)

    def batches(self, loader: Batches) -> Iterator[tuple[Batch, Batch]]:
        """The rest of the loader's epoch: each batch as it was read, and on the device."""
        if self._tables is None:
            for batch in loader:
                yield batch, batch.to(self._device, non_blocking=True)
            return
        try:
            for batch, self._following in loader.in_pairs():
                on_device = self._prepared or self._prepare(self._tables, batch)
                self._prepared = None
                self._wait_for(on_device)
                yield batch, on_device
        finally:
            self._following = self._prepared = self._sent = None

    def prepare_next(self) -> None:
        """Prepares the next batch, if there is one; every rank calls it after its forward pass.

        If it came earlier, computation would wait for the copy, which goes first on the same stream
        as what the forward pass waits for. On a GPU the forward pass is still running.
        """
        if self._tables is not None and self._following is not None:
            self._prepared = self._prepare(self._tables, self._following)

    def _prepare(self, tables: ShardedEmbeddingBagCollection, batch: Batch) -> Batch:
        """Copies a batch to the device and sends its ids; every rank calls it."""
        batch.sparse.length_per_key()  # counted here, where it does not wait for the device
        with self._side_stream():
            on_device = batch.to(self._device, non_blocking=True)
            context = tables.create_context()
            # waits until each rank knows how many ids it gets from which
            ids = tables.input_dist(context, on_device.sparse).wait()
        self._sent = on_device.sparse, context, ids
        return on_device

    def _look_up(self, features: KeyedJaggedTensor) -> Any:
        """Looks up rows, for ids that were sent or for any others."""
        assert self._tables is not None
        sent, self._sent = self._sent, None
        if sent is None or sent[0] is not features:
            return self._tables(features)
        _, context, awaitable = sent
        with self._side_stream():
            ids = awaitable.wait()
        self._wait_for(ids, context)
        return self._tables.compute_and_output_dist(context, ids)

    def _wait_for(self, *made: Any) -> None:
        """Makes computation wait for what the side stream has made."""
        if self._stream is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_stream(self._stream)
            for each in made:
                each.record_stream(current)

    def _side_stream(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)


def _sharded_tables(engine: Engine) -> ShardedEmbeddingBagCollection:
    """The sharded tables of the fields.

    Raises:
        ConfigError: their lookup is not TorchRec's.
    """
    tables: ShardedEmbeddingBagCollection = engine.model.module.tables
    if "forward" in tables.__dict__:
        raise ConfigError(
            "train.pipeline = sparse_dist, but these CPU workers exchange ids through shared "
            "memory, which is faster. Leave train.pipeline out, or set sharding.shared_memory "
            "false."
        )
    return tables
