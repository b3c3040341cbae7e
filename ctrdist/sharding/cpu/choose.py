"""Chooses the code that looks up the tables of a CPU worker."""

from __future__ import annotations

from torch import nn

from ctrdist.config.experiment import ShardingConfig
from ctrdist.distributed.process_group import World
from ctrdist.sharding.cpu.kernel import kernel_lookups
from ctrdist.sharding.cpu.same_host import shared_memory_lookup
from ctrdist.sharding.cpu.unpooled import copied_lookups
from ctrdist.sharding.torchrec_internals import TableLookup


def use_cpu_lookups(model: nn.Module, sharding: ShardingConfig, world: World) -> None:
    """Installs the fastest lookup of each table; every rank calls it once.

    Where none applies, or there is no C compiler, FBGEMM looks up and updates on one thread and
    TorchRec's collectives carry ids and vectors.

    Args:
        model: sharded, on the CPU, its tables at their final place in memory.
        sharding: cpu_kernel and shared_memory allow these ways.
        world: the workers.
    """
    chosen: list[TableLookup] = [*copied_lookups(model)]
    if sharding.cpu_kernel:
        kernels = kernel_lookups(model)
        chosen += kernels
        if sharding.shared_memory and sharding.forward_comm == sharding.backward_comm == "float32":
            shared = shared_memory_lookup(model, kernels, world)
            chosen += [] if shared is None else [shared]
    for lookup in chosen:
        lookup.install()
