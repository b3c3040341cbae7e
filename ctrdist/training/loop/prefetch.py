"""What is done for the next batch during a step: on a GPU its copy, and the way of its ids.

TorchRec's TrainPipelineSparseDist does the same, but its progress() is the whole step: forward,
backward and optimiser, with batches taken from the loader well ahead. Ours looks at the loss of all
workers between forward and backward, runs the tower in slices, and counts a row when it is trained
on. It would also trace the model with torch.fx, to find what goes into which tables; that is known
here. So this is made of the parts that each sharded module has for it: input_dist, which begins to
send ids to the holders of their rows, and compute_and_output_dist, which goes on from there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ctrdist.data.loader import Loader
from ctrdist.errors import ConfigError
from ctrdist.protocols import Batch
from ctrdist.training.build import Engine


class Pipeline:
    """Hands out batches with their copies on the device."""

    def __init__(self, engine: Engine) -> None:
        """Decides how.

        Raises:
            ConfigError: train.pipeline asks for what cannot be done here.
        """
        self._device = engine.world.device
        on_gpu = self._device.type == "cuda"
        wanted = engine.experiment.train.pipeline
        self._ahead: _Ahead | None = None
        self._following: Batch | None = None
        self._prepared: Batch | None = None
        """What follows the batch of this step, and its copy on the device."""
        if wanted == "sparse_dist" or (wanted == "auto" and on_gpu):
            self._ahead = _Ahead(_tables(engine), self._device)

    def batches(self, loader: Loader) -> Iterator[tuple[Batch, Batch]]:
        """The rest of the loader's epoch: each batch as it was read, and on the device."""
        if self._ahead is None:
            for batch in loader:
                yield batch, batch.to(self._device, non_blocking=True)
            return
        try:
            for batch, self._following in loader.in_pairs():
                on_device = self._prepared or self._ahead.prepare(batch)
                self._prepared = None
                self._ahead.join(on_device)
                yield batch, on_device
        finally:
            self._following = self._prepared = self._ahead.coming = None

    def go_on(self) -> None:
        """Prepares the next batch, if there is one; every rank calls it after its forward pass.

        Not before: computation would wait for the copy, as that goes first on the same stream as
        what the forward pass waits for. On a GPU the forward pass still runs meanwhile.
        """
        if self._ahead is not None and self._following is not None:
            self._prepared = self._ahead.prepare(self._following)


@dataclass
class _Coming:
    """Ids on their way to the holders of their rows."""

    features: KeyedJaggedTensor
    context: Any
    ids: Any
    """TorchRec's awaitable of them."""


class _Ahead:
    """Prepares batches, and stands for the forward method of the sharded tables."""

    def __init__(self, tables: ShardedEmbeddingBagCollection, device: torch.device) -> None:
        self._tables, self._device = tables, device
        # before other work: it is little, and the next step waits for it
        self._stream = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None
        self._plain = tables.forward
        self.coming: _Coming | None = None
        # an attribute of the instance goes before the method of its class
        tables.forward = self

    def prepare(self, batch: Batch) -> Batch:
        """Copies a batch to the device and sends its ids; every rank calls it."""
        batch.sparse.length_per_key()  # counted here, where it does not wait for the device
        with self._aside():
            on_device = batch.to(self._device, non_blocking=True)
            context = self._tables.create_context()
            # waits until it is known how much comes from whom
            ids = self._tables.input_dist(context, on_device.sparse).wait()
        self.coming = _Coming(on_device.sparse, context, ids)
        return on_device

    def join(self, batch: Batch) -> None:
        """Lets computation wait for the batch's copy."""
        if self._stream is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_stream(self._stream)
            batch.record_stream(current)

    def __call__(self, features: KeyedJaggedTensor) -> Any:
        """The looked-up rows, of ids that are prepared or of any others."""
        coming, self.coming = self.coming, None
        if coming is None or coming.features is not features:
            return self._plain(features)
        with self._aside():
            ids = coming.ids.wait()
        if self._stream is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_stream(self._stream)
            ids.record_stream(current)
            coming.context.record_stream(current)
        return self._tables.compute_and_output_dist(coming.context, ids)

    def _aside(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)


def _tables(engine: Engine) -> ShardedEmbeddingBagCollection:
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
