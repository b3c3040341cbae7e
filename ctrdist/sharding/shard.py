"""Distributes a model over the workers: sharded tables, and the rest data-parallel."""

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.types import ShardingPlan

from ctrdist.config.experiment import ShardingConfig
from ctrdist.config.optimizers import OptimConfig
from ctrdist.distributed.communication_timer import time_process_group
from ctrdist.distributed.process_group import World, use_collectives
from ctrdist.models.tables import Codebook, is_wide, table_of
from ctrdist.schema import PADDING_ID, UNKNOWN_ID, module_key
from ctrdist.sharding.cpu.kernel import kernel_lookups
from ctrdist.sharding.cpu.same_host import shared_memory_lookups
from ctrdist.sharding.cpu.shared_memory import open_sums
from ctrdist.sharding.cpu.unpooled import copied_lookups
from ctrdist.sharding.plan import table_weights
from ctrdist.sharding.sharders import make_sharders
from ctrdist.sharding.torchrec_internals import ShardedTensor, TableLookup, wrapped_module

_BLOCK_ROWS = 65536
"""Rows that are drawn at once. A seed gives other weights with another number."""


def shard_model(
    model: nn.Module,
    plan: ShardingPlan,
    sharding: ShardingConfig,
    optim: OptimConfig,
    world: World,
    *,
    seed: int,
    init_std: float,
    all_known: Collection[str] = (),
) -> DistributedModelParallel:
    """Places the tables, wraps the rest in data parallelism and fills the tables.

    Args:
        model: a CTRModel, tables on the meta device, their fused optimiser declared
            (ctrdist.optim.fused).
        plan: of the tables.
        sharding: number formats between workers, and the ways of CPU workers.
        optim: tells fused from dense kernels.
        world: the workers.
        seed: tables are filled from (seed, table, row) alone, so equally under any plan and number
            of workers.
        init_std: the fields' tables are N(0, init_std²), the padding row zero. Codebooks have their
            own, and no padding row.
        all_known: fields whose training rows have no unknown id. The row of the unknown id starts
            at zero there, as nothing will train it.
    """
    shapes = {
        table: (int(weight.shape[0]), int(weight.shape[1]))
        for table, weight in table_weights(model)
    }
    codebooks: dict[str, Codebook] = {c.name: c for c in model.codebooks}  # type: ignore[union-attr]
    sharded = DistributedModelParallel(
        model,
        device=world.device,
        plan=plan,
        sharders=make_sharders(sharding, optim, world.device.type),
        init_parameters=True,
        init_data_parallel=world.size > 1,  # one worker has no gradients to average
    )
    sharded.to(world.device)
    _fill_tables(sharded, shapes, codebooks, all_known, seed=seed, init_std=init_std)
    averaged = False
    if world.device.type == "cpu":
        averaged = _share_sums(sharded, sharding, world)
        _use_cpu_lookups(sharded, sharding, world)
    if world.size > 1:
        time_process_group(wrapped_module(sharded), world.device, gradients=not averaged)
    return sharded


def _fill_tables(
    sharded: nn.Module,
    shapes: Mapping[str, tuple[int, int]],
    codebooks: Mapping[str, Codebook],
    all_known: Collection[str],
    *,
    seed: int,
    init_std: float,
) -> None:
    """Fills this worker's parts of all tables."""
    keys = {module_key(field) for field in all_known}
    for table, part, row, column in table_parts(sharded):
        codebook, zeros = codebooks.get(table), {PADDING_ID}
        if table.partition("/")[2] in keys:
            zeros.add(UNKNOWN_ID)
        fill_table(
            part,
            table,
            row,
            column,
            shapes[table],
            seed=seed,
            std=_deviation(table, codebook, init_std),
            zeros=() if codebook else zeros,
        )


def _deviation(table: str, codebook: Codebook | None, init_std: float) -> float:
    """The standard deviation of a table's initial weights."""
    if is_wide(table):
        return 0.0
    return init_std if codebook is None else codebook.init_std


def _share_sums(model: DistributedModelParallel, sharding: ShardingConfig, world: World) -> bool:
    """Lets CPU workers sum through shared memory instead of gloo; False where they cannot."""
    sums = open_sums(world) if sharding.shared_memory else None
    use_collectives(sums)
    module = wrapped_module(model)
    if sums is not None and isinstance(module, DistributedDataParallel):
        # a lambda, as DDP refuses annotations that are strings
        module.register_comm_hook(sums, lambda sums, bucket: sums.average_gradients(bucket))
    return sums is not None


def _use_cpu_lookups(model: nn.Module, sharding: ShardingConfig, world: World) -> None:
    """Installs the fastest lookup of each table; every rank calls it once.

    Where none applies, or there is no C compiler, FBGEMM looks up and updates on one thread and
    TorchRec's collectives carry ids and vectors. The tables are at their final place in memory.
    """
    chosen: list[TableLookup] = [*copied_lookups(model)]
    if sharding.cpu_kernel:
        kernels = kernel_lookups(model)
        chosen += kernels
        if sharding.shared_memory and sharding.forward_comm == sharding.backward_comm == "float32":
            chosen += shared_memory_lookups(model, kernels, world)
    for lookup in chosen:
        lookup.install()


def table_parts(sharded: nn.Module) -> Iterator[tuple[str, Tensor, int, int]]:
    """This worker's parts of all tables: (table, view of the weights, first row, first column)."""
    for name, value in sharded.state_dict().items():
        table = table_of(name)
        if table is None:
            continue
        if isinstance(value, ShardedTensor):
            for shard in value.local_shards():
                row, column = shard.metadata.shard_offsets
                yield table, shard.tensor, row, column
        else:
            yield table, value, 0, 0


def fill_table(
    part: Tensor,
    table: str,
    first_row: int,
    first_column: int,
    shape: tuple[int, int],
    *,
    seed: int,
    std: float,
    zeros: Collection[int] = (PADDING_ID,),
) -> None:
    """Fills a part of a table with the values that the whole table has there.

    Args:
        part: (rows, columns) weights, written in place.
        table: its name.
        first_row: of the part in the table.
        first_column: of the part in the table.
        shape: rows and columns of the whole table.
        seed: of the run.
        std: standard deviation.
        zeros: rows that are zero.
    """
    rows, columns = part.shape

    def fill(block: int) -> None:
        key = hashlib.sha256(f"{seed}/{table}/{block}".encode()).digest()[:7]
        generator = torch.Generator().manual_seed(int.from_bytes(key, "little"))
        begin, end = block * _BLOCK_ROWS, min((block + 1) * _BLOCK_ROWS, shape[0])
        # always the whole block: what torch draws for a row depends on how many are drawn with it
        drawn = torch.randn(end - begin, shape[1], generator=generator).mul_(std)
        low, high = max(begin, first_row), min(end, first_row + rows)
        wanted = drawn[low - begin : high - begin, first_column : first_column + columns]
        with torch.no_grad():  # its switch is a thread's own
            part[low - first_row : high - first_row].copy_(wanted)

    # a draw takes one thread, and lets others run meanwhile
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        blocks = range(first_row // _BLOCK_ROWS, -(-(first_row + rows) // _BLOCK_ROWS))
        list(threads.map(fill, blocks))
    with torch.no_grad():
        for row in zeros:
            if first_row <= row < first_row + rows:
                part[row - first_row].zero_()
