"""Lookup and update of tables between CPU workers of one machine, through shared memory.

TorchRec moves ids and vectors by collectives, which between CPUs are sockets: for a batch of 4096
rows of 39 fields that takes longer than the model. Here each worker writes its ids where all can
read them; the holder of a part of a table writes the rows that it holds straight to the place of
the worker that asked, and reads the gradients from there. Checkpoints, plans and learning rates see
no difference, as the tables stay in FBGEMM's memory.
"""

# W workers, F fields, S rows of the worker that has most, P parts of tables on this worker

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torchrec.distributed.batched_embedding_kernel import BaseBatchedEmbeddingBag
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import get_embedding_names_by_table
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from ctrdist.distributed.process_group import World
from ctrdist.errors import DataError
from ctrdist.native import embedding
from ctrdist.native.embedding import TablePart
from ctrdist.sharding.cpu.kernel import CpuLookup, on_all_threads
from ctrdist.sharding.cpu.shared_memory import SharedMemory, all_ranks
from ctrdist.sharding.lookups import lookups

log = logging.getLogger(__name__)

_MAX_ROWS = 2**31
"""Ids are exchanged as int32."""


def exchange_in_memory(model: nn.Module, world: World) -> bool:
    """Lets workers of one machine exchange ids and vectors through shared memory.

    Every rank calls it. It applies where all workers are on one machine, every field has one id per
    row, and every table uses our kernel.

    Args:
        model: sharded, and after ctrdist.sharding.cpu.kernel.use_cpu_kernel.
        world: the workers.

    Returns:
        Whether it is used; the same on all ranks.
    """
    collections = [m for m in model.modules() if isinstance(m, ShardedEmbeddingBagCollection)]
    able = (
        len(collections) == 1
        and world.local_size == world.size
        and sys.platform == "linux"
        and embedding.has_embedding()
        and _suits(collections[0])
    )
    if not all_ranks(able):
        return False
    exchange = Exchange(collections[0], world)
    try:
        exchange.make_room(1)
    except OSError as error:
        log.info("%s: they exchange vectors by collectives", error)
        return False
    # an attribute of the instance goes before the method of its class
    collections[0].forward = exchange
    return True


def _held(collection: ShardedEmbeddingBagCollection) -> list[Any]:
    """TorchRec's groups of tables on this worker."""
    return [group for group in lookups(collection) if isinstance(group, BaseBatchedEmbeddingBag)]


def _suits(collection: ShardedEmbeddingBagCollection) -> bool:
    return all(
        config.pooling == PoolingType.SUM
        and len(config.feature_names) == 1
        and config.num_embeddings < _MAX_ROWS
        for config in collection._embedding_bag_configs
    ) and all(isinstance(group.emb_module.forward, CpuLookup) for group in _held(collection))


@dataclass
class _Room:
    """What all workers see."""

    memory: SharedMemory
    ids: Tensor
    """(W · F · S,) int32."""
    out: Tensor
    """(W · S · width,) float32."""
    grad: Tensor
    """(W · S · width,) float32."""
    pairs: Tensor
    """(P · W · S,) int64, this worker's own: which ids fall into its parts."""
    capacity: int
    """S at most."""


class Exchange:
    """Stands for the forward method of a sharded collection."""

    def __init__(
        self,
        collection: ShardedEmbeddingBagCollection,
        world: World,
    ) -> None:
        configs: list[EmbeddingBagConfig] = collection._embedding_bag_configs
        self.world = world
        self.fields = list(dict.fromkeys(c.feature_names[0] for c in configs))
        self.names = [names[0] for names in get_embedding_names_by_table(configs)]
        self.dims = [config.embedding_dim for config in configs]
        self.width = sum(self.dims)
        rows = {c.feature_names[0]: c.num_embeddings for c in configs}
        self.rows = torch.tensor([rows[field] for field in self.fields])
        self.placeholder = nn.Parameter(torch.zeros(()))  # so that autograd calls backward
        self._collect(collection, configs)
        self.room: _Room | None = None
        self.lookups = 0

    def _collect(
        self, collection: ShardedEmbeddingBagCollection, configs: list[EmbeddingBagConfig]
    ) -> None:
        """Finds this worker's parts of tables in memory."""
        columns = dict(zip((c.name for c in configs), _starts(self.dims), strict=True))
        fields = {c.name: self.fields.index(c.feature_names[0]) for c in configs}
        self.groups: list[CpuLookup] = []  # keep the memory alive, and know the learning rate
        parts: list[TablePart] = []
        for group in _held(collection):
            held: CpuLookup = group.emb_module.forward
            self.groups.append(held)
            for table, part in zip(group._config.embedding_tables, held.array, strict=True):
                first_row, first_column = table.local_metadata.shard_offsets
                if part.rows:
                    parts.append(
                        TablePart(
                            part.weights,
                            part.state,
                            part.rows,
                            part.dim,
                            columns[table.name] + first_column,
                            first_row,
                            fields[table.name],
                        )
                    )
        self.parts = (TablePart * len(parts))(*parts)
        self.counts = torch.zeros(len(parts), dtype=torch.int64)

    def make_room(self, rows: int) -> None:
        """Maps memory for S = rows; every rank calls it with the same.

        Raises:
            OSError: on all ranks, where one of them cannot have it.
        """
        world = self.world.size
        vectors = 4 * world * rows * self.width
        memory = SharedMemory(self.world, [4 * world * len(self.fields) * rows, vectors, vectors])
        self.room = _Room(
            memory=memory,
            ids=memory.pieces[0].view(torch.int32),
            out=memory.pieces[1].view(torch.float32),
            grad=memory.pieces[2].view(torch.float32),
            pairs=torch.empty(len(self.parts) * world * rows, dtype=torch.int64),
            capacity=rows,
        )

    def __call__(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """Looks up one id per row and field; the update happens in backward.

        Raises:
            DataError: an id is outside its table.
        """
        stride = features.stride()
        assert self.room is not None
        if stride > self.room.capacity:
            self.make_room(stride)
        if features.keys() != self.fields:
            features = features.permute([features.keys().index(f) for f in self.fields])
        values = _Lookup.apply(self.placeholder, self, features.values(), stride)
        return KeyedTensor(self.names, self.dims, values)

    def look_up(self, ids: Tensor, stride: int) -> Tensor:
        """(F · n,) ids of n ≤ S rows → (S, width); rows past n hold anything."""
        room = self.room
        assert room is not None
        own = self.world.rank * stride
        n = len(ids) // len(self.fields)
        assert n * len(self.fields) == len(ids) and n <= stride, "a field without one id per row"
        given = ids if ids.dtype == torch.int32 else ids.clamp(-1, _MAX_ROWS - 1).int()
        size, fields = self.world.size, len(self.fields)
        shared = room.ids[: size * fields * stride].view(size, fields, stride)
        bad = embedding.publish(given, self.rows, shared[self.world.rank])
        if bad is not None:
            field = bad // n
            raise DataError(
                f"field {self.fields[field]}: id {int(ids[bad])} was looked up, its table has rows "
                f"0 to {int(self.rows[field]) - 1}. Schema and rows are not of one preprocessing "
                "run; preprocess again."
            )
        room.memory.meet()
        # among several, a place that the holders of the rows can write to
        alone = self.world.size == 1
        out = torch.empty(stride, self.width) if alone else room.out
        out = out.view(-1, self.width)[: size * stride]
        on_all_threads(
            lambda first, end: embedding.serve(
                self.parts, first, end, shared, room.pairs, self.counts, out
            ),
            self._cuts(),
        )
        if alone:
            return out
        room.memory.meet()
        # a copy: the place is written anew in the next lookup
        return room.out[own * self.width :][: stride * self.width].clone().view(stride, self.width)

    def update(self, grad: Tensor, stride: int) -> None:
        """One step of the optimiser with all workers' gradients; grad is (S, width)."""
        room = self.room
        assert room is not None
        own = self.world.rank * stride
        place = room.grad[own * self.width :][: stride * self.width].view(stride, self.width)
        # dense gradients are averaged over the workers, and TorchRec treats tables alike
        torch.mul(grad, 1.0 / self.world.size, out=place)
        room.memory.meet()
        if not self.parts:
            return
        step = self.groups[0].optimizer_step()
        grads = room.grad.view(-1, self.width)[: self.world.size * stride]

        def work(first: int, end: int) -> None:
            embedding.apply(self.parts, first, end, room.pairs, self.counts, step, grads)

        on_all_threads(work, self._cuts())

    def _cuts(self) -> list[int]:
        """Where ranges of about as many parts for each thread begin and end."""
        threads = max(1, min(torch.get_num_threads(), len(self.parts)))
        return [len(self.parts) * thread // threads for thread in range(threads + 1)]


class _Lookup(torch.autograd.Function):
    """Lookup in forward; in backward the update itself, and no gradient for anything."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, placeholder: Tensor, exchange: Exchange, ids: Tensor, stride: int
    ) -> Tensor:
        exchange.lookups += 1
        ctx.exchange, ctx.stride, ctx.number = exchange, stride, exchange.lookups  # type: ignore[attr-defined]
        return exchange.look_up(ids, stride)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, None, None]:  # type: ignore[override]
        if ctx.number != ctx.exchange.lookups:
            raise RuntimeError(
                "a lookup's backward pass after the next lookup: its ids are gone. Call backward "
                "before the next forward, or set sharding.shared_memory false."
            )
        ctx.exchange.update(grads[0].float(), ctx.stride)
        return None, None, None, None


def _starts(sizes: list[int]) -> list[int]:
    """Where each of some pieces begins when they stand one after the other."""
    return [sum(sizes[:index]) for index in range(len(sizes))]
