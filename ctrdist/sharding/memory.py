"""Memory that tables and their optimiser's state need, and advice where there is too little."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import psutil
from torch import Tensor

from ctrdist.config.experiment import ShardingConfig
from ctrdist.config.optimizers import TABLE_OPTIMIZERS, OptimConfig
from ctrdist.models.tables import optimizer_key, optimizer_of

GIB = 2**30
_SPLIT_ROWS = ("auto", "row_wise", "table_row_wise", "grid_shard")
_SPLIT_COLUMNS = ("auto", "column_wise", "table_column_wise", "grid_shard")


def explain_shortage(
    tables: Mapping[str, Tensor],
    sharding: ShardingConfig,
    optim: OptimConfig,
    *,
    world_size: int,
    memory: int,
) -> str:
    """Names the table that does not fit, or the bytes that all lack, and what would make them fit.

    Args:
        tables: name → weight, on the meta device.
        sharding: kinds of the tables.
        optim: its table optimiser has the state.
        world_size: workers.
        memory: bytes of each worker.
    """
    room = math.floor(memory * (1 - sharding.reserved))
    names = {table: optimizer_of(table, optim).name for table in tables}
    have = (
        f"{room:,} bytes ({room / GIB:.2f} GiB) for tables on each of {world_size} workers: "
        f"{memory / GIB:.2f} GiB less sharding.reserved = {sharding.reserved}"
    )
    averaged = optim.ema_decay > 0
    needs = {table: _need(weight, names[table], averaged) for table, weight in tables.items()}
    kinds = {table: _kind(table, sharding, name) for table, name in names.items()}
    parts = {
        table: -(-needs[table] // _ways(weight, kinds[table], sharding, world_size))
        for table, weight in tables.items()
    }
    worst = max(parts, key=lambda table: parts[table])
    copied = sum(needs[table] for table, kind in kinds.items() if kind == "data_parallel")
    split = sum(needs.values()) - copied
    total = split + copied * world_size
    rows, columns = (int(size) for size in tables[worst].shape)
    name, kind = names[worst], kinds[worst]
    of_state = TABLE_OPTIMIZERS[name].state_bytes(rows, columns, averaged=averaged)
    if parts[worst] > room:
        remedies = _remedies(worst, tables[worst], kind, optim, room, parts[worst])
        return (
            f"table {worst} does not fit: {rows:,} rows × {columns} take "
            f"{needs[worst] - of_state:,} bytes and their {name} state {of_state:,}; its smallest "
            f"part under {kind} is {parts[worst]:,} bytes, {parts[worst] - room:,} more than there "
            f"are: {have}. What would make it fit: {remedies}."
        )
    if total > room * world_size:
        least = _fewest_workers(split, copied, room)
        return (
            f"the tables with their {' and '.join(sorted(set(names.values())))} state take "
            f"{total:,} bytes on all workers, {total - room * world_size:,} more than there are: "
            f"{have}. The largest table is {worst} with {rows:,} rows × {columns}. What would make "
            f"them fit: {least}, a smaller optimiser state (rowwise_adagrad, sgd), a smaller "
            "embedding_dim, a higher min_count, or --sharding.memory_gb if there is more."
        )
    return (
        f"the tables take {total:,} bytes, which could fit ({have}), but not with these kinds and "
        f"what a step needs beside them. The largest part is of {worst}. Use --sharding.default "
        "row_wise, which splits evenly, more --workers, a smaller loader.batch_size, or "
        "--sharding.memory_gb if there is more."
    )


def _fewest_workers(split: int, copied: int, room: int) -> str:
    """The option that gives enough workers; `copied` bytes are needed on each of them."""
    if copied >= room:
        return "another sharding kind or optimiser, as each worker holds a copy"
    return f"--workers {-(-split // (room - copied))}"


def _kind(table: str, sharding: ShardingConfig, optimizer: str) -> str:
    kind = sharding.tables.get(table, sharding.default)
    return "data_parallel" if TABLE_OPTIMIZERS[optimizer].dense else kind


def _need(weight: Tensor, optimizer: str, averaged: bool) -> int:
    rows, columns = (int(size) for size in weight.shape)
    state = TABLE_OPTIMIZERS[optimizer].state_bytes(rows, columns, averaged=averaged)
    return rows * columns * weight.element_size() + state


def _ways(weight: Tensor, kind: str, sharding: ShardingConfig, world_size: int) -> int:
    """The most workers' parts into which a kind can split a table."""
    if kind in _SPLIT_ROWS:
        return min(world_size, int(weight.shape[0]))
    if kind in _SPLIT_COLUMNS:
        return min(world_size, max(1, int(weight.shape[1]) // sharding.min_columns))
    return 1


def _remedies(
    table: str, weight: Tensor, kind: str, optim: OptimConfig, room: int, part: int
) -> str:
    optimizer = optimizer_of(table, optim).name
    rows, columns = (int(size) for size in weight.shape)
    averaged = optim.ema_decay > 0
    need, size = _need(weight, optimizer, averaged), weight.element_size()
    workers = -(-need // room)
    found = []
    if kind in _SPLIT_ROWS:
        found.append(f"--workers {workers}")
    elif optimizer != "adam":
        found.append(f"--sharding.tables.{table} row_wise and at least {workers} workers")
    smaller = [
        name
        for name in ("rowwise_adagrad", "sgd")
        if TABLE_OPTIMIZERS[name].state_bytes(rows, columns)
        < TABLE_OPTIMIZERS[optimizer].state_bytes(rows, columns)
    ]
    if smaller:
        found.append(f"--{optimizer_key(table, optim)} {smaller[0]}, with less state")
    if averaged and optimizer == "adam":
        found.append("--optim.ema_decay 0, without an average of the weights")
    if size == 4 and optimizer != "adam":
        found.append("--sharding.tables_dtype float16")
    narrower = columns * room // part // 4 * 4
    if narrower:
        found.append(f"an embedding_dim of about {narrower}")
    found.append("a higher min_count, which makes fewer rows")
    found.append("--sharding.memory_gb if there is more")
    return ", ".join(found[:-1]) + " or " + found[-1]


def available_memory(
    cgroups: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> int:
    """Bytes of memory for the processes here: the machine's, or less if a container limits it.

    Args:
        cgroups: where control groups are mounted, of version 1 or 2.
        membership: names the control groups of this process.
    """
    limits = [psutil.virtual_memory().total]
    for line in membership.read_text().splitlines() if membership.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, name = cgroups, "memory.max"
        elif "memory" in controllers.split(","):
            base, name = cgroups / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = base / path.lstrip("/")
        # each group above limits it too; inside a container only the mount's own may be visible
        for directory in (
            group,
            *(parent for parent in group.parents if base in parent.parents),
            base,
        ):
            try:
                limits.append(int((directory / name).read_text()))
            except (OSError, ValueError):  # not there, or "max"
                continue
    return min(limits)
