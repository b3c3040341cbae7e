"""Lookup and update of tables by the CPU workers of one machine, through shared memory.

TorchRec moves ids and vectors by collectives, which between CPUs are sockets: for a batch of 4096
rows of 39 fields that takes longer than the model. Here each worker writes its ids where all can
read them. The holder of a part of a table writes the rows that it holds straight into the output of
the worker that asked, and reads their gradients from shared memory too.
"""

# W workers, F fields, S rows of the worker that has most, P parts of tables on this worker

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torchrec.distributed.batched_embedding_kernel import BaseBatchedEmbeddingBag
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection
from torchrec.modules.embedding_configs import PoolingType
from torchrec.modules.embedding_modules import get_embedding_names_by_table
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from ctrdist.distributed.process_group import World
from ctrdist.errors import DataError
from ctrdist.native import embedding
from ctrdist.native.embedding import TablePart
from ctrdist.sharding.cpu.kernel import KernelLookup, LookUp, on_all_threads
from ctrdist.sharding.cpu.shared_memory import SharedMemory, all_ranks
from ctrdist.sharding.torchrec_internals import (
    TableLookup,
    bag_configs,
    table_groups,
    tables_of_group,
)

log = logging.getLogger(__name__)

_MAX_ROWS = 2**31
"""Rows of a table: ids are shared as int32."""


def shared_memory_lookups(
    model: nn.Module, kernels: Sequence[KernelLookup], world: World
) -> list[TableLookup]:
    """The lookups through shared memory that apply; the same on all ranks, which all call it.

    One applies to a sharded collection where all workers are on one machine, every field has one id
    per row, and our kernel treats every table of the collection.
    """
    by_tables = {id(kernel.tables): kernel for kernel in kernels}
    here = world.local_size == world.size and sys.platform == "linux" and embedding.has_embedding()
    found: list[TableLookup] = []
    for collection in model.modules():
        if not isinstance(collection, ShardedEmbeddingBagCollection):
            continue
        if all_ranks(here and _suits(collection, by_tables)):
            lookup = SharedMemoryLookup(collection, by_tables, world)
            try:
                lookup.allocate(1)
                found.append(lookup)
            except OSError as error:
                log.info("%s: collectives carry ids and vectors", error)
    return found


def _groups(collection: ShardedEmbeddingBagCollection) -> list[Any]:
    """TorchRec's groups of tables on this worker."""
    return [g for g in table_groups(collection) if isinstance(g, BaseBatchedEmbeddingBag)]


def _suits(collection: ShardedEmbeddingBagCollection, kernels: Mapping[int, KernelLookup]) -> bool:
    return all(
        config.pooling == PoolingType.SUM
        and len(config.feature_names) == 1
        and config.num_embeddings < _MAX_ROWS
        for config in bag_configs(collection)
    ) and all(id(group.emb_module) in kernels for group in _groups(collection))


class SharedMemoryLookup(TableLookup):
    """Looks up the tables of a sharded collection, for the workers of one machine together."""

    def __init__(
        self,
        collection: ShardedEmbeddingBagCollection,
        kernels: Mapping[int, KernelLookup],
        world: World,
    ) -> None:
        """Finds this worker's parts of tables, by kernels: id of FBGEMM's module → its lookup."""
        super().__init__(collection)
        configs = bag_configs(collection)
        self.world = world
        self.fields = list(dict.fromkeys(c.feature_names[0] for c in configs))
        self.names = [names[0] for names in get_embedding_names_by_table(configs)]
        self.dims = [config.embedding_dim for config in configs]
        self.width = sum(self.dims)
        rows = {c.feature_names[0]: c.num_embeddings for c in configs}
        self.rows = torch.tensor([rows[field] for field in self.fields])
        self.placeholder = nn.Parameter(torch.zeros(()))  # so that autograd calls backward
        self.capacity = 0
        """S at most."""
        self.looked_up: Tensor | None = None
        """Ids of the last lookup, whose pairs are kept for its update."""
        starts = accumulate(self.dims, initial=0)
        columns = {c.name: start for c, start in zip(configs, starts, strict=False)}
        fields = {c.name: self.fields.index(c.feature_names[0]) for c in configs}
        self.groups: list[KernelLookup] = []  # keep the memory alive, and know the learning rate
        parts: list[TablePart] = []
        for group in _groups(collection):
            held = kernels[id(group.emb_module)]
            self.groups.append(held)
            for table, part in zip(tables_of_group(group), held.array, strict=True):
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

    def allocate(self, rows: int) -> None:
        """Maps memory for S = rows; every rank calls it with the same.

        Raises:
            OSError: on all ranks, where one of them cannot have it.
        """
        world = self.world.size
        vectors = 4 * world * rows * self.width
        sizes = [4 * world * len(self.fields) * rows, vectors, vectors]
        self.memory = SharedMemory(self.world, sizes)
        ids, out, grad = self.memory.regions
        self.ids = ids.view(torch.int32)  # (W · F · S,)
        self.out, self.grad = out.view(torch.float32), grad.view(torch.float32)  # (W · S · width,)
        # (P · W · S,), this worker's own: which ids fall into its parts
        self.pairs = torch.empty(len(self.parts) * world * rows, dtype=torch.int64)
        self.capacity = rows

    def __call__(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """Looks up one id per row and field; the update happens in backward.

        Raises:
            DataError: an id is outside its table.
        """
        stride = features.stride()
        if stride > self.capacity:
            self.allocate(stride)
        if features.keys() != self.fields:
            features = features.permute([features.keys().index(f) for f in self.fields])
        values = LookUp.apply(self.placeholder, self, features.values(), stride)
        return KeyedTensor(self.names, self.dims, values)

    def look_up(self, ids: Tensor, stride: int) -> Tensor:
        """(F · n,) ids of n ≤ S rows → (S, width); rows past n hold anything."""
        self.looked_up = ids
        n = len(ids) // len(self.fields)
        assert n * len(self.fields) == len(ids) and n <= stride, "a field without one id per row"
        given = ids if ids.dtype == torch.int32 else ids.clamp(-1, _MAX_ROWS - 1).int()
        size, fields = self.world.size, len(self.fields)
        shared = self.ids[: size * fields * stride].view(size, fields, stride)
        bad = embedding.publish(given, self.rows, shared[self.world.rank])
        if bad is not None:
            field = bad // n
            raise DataError(
                f"field {self.fields[field]}: id {int(ids[bad])} was looked up, its table has rows "
                f"0 to {int(self.rows[field]) - 1}. Schema and rows are not of one preprocessing "
                "run; preprocess again."
            )
        self.memory.wait_for_all()
        # among several workers, memory that the holders of the rows can write to
        alone = self.world.size == 1
        out = torch.empty(stride, self.width) if alone else self.out
        out = out.view(-1, self.width)[: size * stride]
        on_all_threads(
            lambda first, end: embedding.serve(
                self.parts, first, end, shared, self.pairs, self.counts, out
            ),
            self._cuts(),
        )
        if alone:
            return out
        self.memory.wait_for_all()
        # a copy, as the next lookup writes there again
        return self._own(self.out, stride).clone()

    def update(self, ids: Tensor, stride: int, grad: Tensor) -> None:
        """One step of the optimiser with all workers' gradients; grad is (S, width)."""
        if ids is not self.looked_up:
            raise RuntimeError(
                "a lookup's backward pass after the next lookup: its ids are gone. Call backward "
                "before the next forward, or set sharding.shared_memory false."
            )
        own_grad = self._own(self.grad, stride)
        # dense gradients are averaged over the workers, and TorchRec treats tables alike
        torch.mul(grad, 1.0 / self.world.size, out=own_grad)
        self.memory.wait_for_all()
        if not self.parts:
            return
        step = self.groups[0].optimizer_step()
        grads = self.grad.view(-1, self.width)[: self.world.size * stride]

        def work(first: int, end: int) -> None:
            embedding.apply(self.parts, first, end, self.pairs, self.counts, step, grads)

        on_all_threads(work, self._cuts())

    def _own(self, vectors: Tensor, stride: int) -> Tensor:
        """(S, width): this worker's place among the vectors of all workers."""
        own = vectors[self.world.rank * stride * self.width :][: stride * self.width]
        return own.view(stride, self.width)

    def _cuts(self) -> list[int]:
        """The bounds of ranges with about as many parts for each thread."""
        threads = max(1, min(torch.get_num_threads(), len(self.parts)))
        return [len(self.parts) * thread // threads for thread in range(threads + 1)]
