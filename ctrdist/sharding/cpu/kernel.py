"""Lookup and fused update of tables on CPU workers, on all of a worker's threads.

FBGEMM's CPU backward runs on one thread, which makes it most of a step. ctrdist/native/embedding.c
works on the same memory. FBGEMM does the work where the kernel does not apply or cannot be
compiled.
"""

# T tables, B rows of the batch, N lookups

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType, SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor, nn
from torchrec.distributed.batched_embedding_kernel import (
    BatchedFusedEmbedding,
    BatchedFusedEmbeddingBag,
)

from ctrdist.errors import DataError
from ctrdist.native import embedding
from ctrdist.native.embedding import MAX_ROWS, Optimizer, TablePart
from ctrdist.sharding.torchrec_internals import TableLookup, table_groups, tables_of_group

_ALGORITHMS = {
    EmbOptimType.EXACT_SGD: embedding.SGD,
    EmbOptimType.EXACT_ADAGRAD: embedding.ADAGRAD,
    EmbOptimType.EXACT_ROWWISE_ADAGRAD: embedding.ROWWISE_ADAGRAD,
}


def kernel_lookups(model: nn.Module) -> list[KernelLookup]:
    """A lookup for each group of fused CPU tables that the kernel can treat; none without it.

    The sharded model's tables are at their final place in memory.
    """
    if not embedding.has_embedding():
        return []
    return [
        KernelLookup(group.emb_module, [table.name for table in tables_of_group(group)])
        for group in table_groups(model)
        if isinstance(group, (BatchedFusedEmbeddingBag, BatchedFusedEmbedding))
        and applies(group.emb_module)
    ]


def applies(tables: Any) -> bool:
    """True if the kernel can do the work of a group of FBGEMM tables."""
    return (
        isinstance(tables, SplitTableBatchedEmbeddingBagsCodegen)
        and tables.current_device.type == "cpu"
        and tables.weights_precision == SparseType.FP32
        and tables.output_dtype == SparseType.FP32.as_int()
        and tables.optimizer in _ALGORITHMS
        and (tables.pooling_mode != PoolingMode.NONE or len(tables.embedding_specs) == 1)
        and tables.feature_table_map == list(range(len(tables.embedding_specs)))
        and not tables.optimizer_args.weight_decay
        and not tables.optimizer_args.gradient_clipping
        and max(spec[0] for spec in tables.embedding_specs) < MAX_ROWS
    )


class KernelLookup(TableLookup):
    """Looks up a group of FBGEMM tables on all of this worker's threads."""

    def __init__(self, tables: Any, names: list[str]) -> None:
        """Finds the tables of a SplitTableBatchedEmbeddingBagsCodegen; names are for messages."""
        super().__init__(tables)
        self.tables, self.names = tables, names
        self.algorithm = _ALGORITHMS[tables.optimizer]
        self.mean = bool(tables.pooling_mode == PoolingMode.MEAN)
        self.pooled = tables.pooling_mode != PoolingMode.NONE
        self.eps = float(tables.optimizer_args.eps)
        columns = tables.D_offsets.tolist()
        self.width = columns[-1]
        weights = tables.split_embedding_weights()
        states = tables.split_optimizer_states() if self.algorithm else []
        self.views = [*weights, *(part[0] for part in states)]  # keeps the memory alive
        self.array = (TablePart * len(weights))(
            *(
                TablePart(
                    weight.data_ptr(),
                    states[k][0].data_ptr() if self.algorithm else 0,
                    weight.shape[0],
                    weight.shape[1],
                    columns[k],
                )
                for k, weight in enumerate(weights)
            )
        )
        self._address = tables.weights_host.data_ptr()

    def __call__(
        self, indices: Tensor, offsets: Tensor, per_sample_weights: Tensor | None = None, **_: Any
    ) -> Tensor:
        """(B, width) pooled rows, (N, width) of a table without pooling; backward updates them.

        Args:
            indices: (N,) ids, table after table.
            offsets: (T · B + 1,) where each row's ids begin.
            per_sample_weights: unused here; none of our fields has them.

        Raises:
            DataError: an id is outside its table.
        """
        assert per_sample_weights is None
        assert self._address == self.tables.weights_host.data_ptr(), "the tables have moved"
        if not self.pooled:  # each id as a row of its own: nothing is added up
            offsets = torch.arange(len(indices) + 1)
        placeholder = self.tables.placeholder_autograd_tensor
        return LookUp.apply(placeholder, self, indices.long(), offsets.long())

    def look_up(self, indices: Tensor, offsets: Tensor) -> Tensor:
        """(B, width) float32."""
        batch = self._batch(offsets)
        out = torch.empty(batch, self.width)

        def work(first: int, end: int) -> None:
            bad = embedding.look_up(self.array, first, end, indices, offsets, self.mean, out)
            if bad is not None:
                starts = offsets[::batch].contiguous()
                table = int(torch.searchsorted(starts, bad, right=True)) - 1
                raise DataError(
                    f"table {self.names[table]}: id {int(indices[bad])} was looked up, its rows "
                    f"are 0 to {self.array[table].rows - 1}. Schema and rows are not of one "
                    "preprocessing run; preprocess again."
                )

        on_all_threads(work, self._cuts(offsets))
        return out

    def update(self, indices: Tensor, offsets: Tensor, grad: Tensor) -> None:
        """One step of the optimiser; grad is (B, width) float32."""
        step = self.optimizer_step()

        def work(first: int, end: int) -> None:
            embedding.update(self.array, first, end, indices, offsets, self.mean, step, grad)

        on_all_threads(work, self._cuts(offsets))

    def optimizer_step(self) -> Optimizer:
        """The optimiser's step with the learning rate of now."""
        return Optimizer(self.algorithm, float(self.tables.get_learning_rate()), self.eps)

    def _batch(self, offsets: Tensor) -> int:
        """B that goes with (T · B + 1,) offsets."""
        return (len(offsets) - 1) // len(self.array)

    def _cuts(self, offsets: Tensor) -> list[int]:
        """The bounds of ranges of tables with about as many lookups for each thread."""
        threads, batch = torch.get_num_threads(), self._batch(offsets)
        if threads == 1 or batch == 0:
            return [0, len(self.array)]
        looked_up = offsets[::batch].contiguous()
        wanted = torch.linspace(0, float(looked_up[-1]), threads + 1)
        cuts = torch.searchsorted(looked_up.float(), wanted).tolist()
        return [0, *cuts[1:-1], len(self.array)]


class LookUp(torch.autograd.Function):
    """Lookup in forward; in backward the update itself, and no gradient for anything.

    apply takes a parameter, so that autograd calls backward, and the lookup. Its method look_up
    gets the further arguments; update gets the same and the gradient of the result, float32.
    """

    @staticmethod
    def forward(ctx: Any, placeholder: Tensor, lookup: Any, *given: Any) -> Tensor:
        """See :class:`LookUp`."""
        ctx.lookup, ctx.given = lookup, given
        return lookup.look_up(*given)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, ...]:
        """See :class:`LookUp`."""
        ctx.lookup.update(*ctx.given, grads[0].float().contiguous())
        return (None,) * (2 + len(ctx.given))


def on_all_threads(work: Callable[[int, int], Any], cuts: Sequence[int]) -> None:
    """Calls work(first, end) for the ranges between the cuts, each on a thread of its own."""
    ranges = [(first, end) for first, end in pairwise(cuts) if first < end]
    if len(ranges) == 1:
        work(*ranges[0])
        return
    for done in [_thread_pool(len(cuts) - 1).submit(work, *part) for part in ranges]:
        done.result()


@cache
def _thread_pool(threads: int) -> ThreadPoolExecutor:
    """Threads for work on tables, during which the kernel does not hold the GIL."""
    return ThreadPoolExecutor(threads, thread_name_prefix="tables")
