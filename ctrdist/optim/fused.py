"""Optimisers that FBGEMM fuses into the tables' backward pass."""

from collections.abc import Iterable
from pkgutil import resolve_name
from typing import Any

from fbgemm_gpu.split_table_batched_embeddings_ops_training import WeightDecayMode
from torch import nn
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.keyed import CombinedOptimizer

from ctrdist.config.optimizers import OptimConfig, TableOptimConfig, optimizers_with
from ctrdist.errors import ConfigError
from ctrdist.models.tables import is_dense, optimizer_of, table_of
from ctrdist.optim.schedule import check_schedule


def check_optim(config: OptimConfig, device: str) -> None:
    """Refuses settings that cannot work on the device, cpu or cuda, or have no effect.

    Raises:
        ConfigError: names the setting and the allowed values.
    """
    check_schedule(config.schedule)
    _check_tables("optim.tables", config.tables, device)
    if config.codebooks is not None:
        _check_tables("optim.codebooks", config.codebooks, device)
    if not 0 <= config.ema_decay < 1:
        raise ConfigError(
            f"optim.ema_decay = {config.ema_decay}: from 0, for no average, to below 1; 0.99 "
            "averages over the last hundred steps or so."
        )
    if config.dense.weight_decay < 0:
        raise ConfigError(f"optim.dense.weight_decay = {config.dense.weight_decay}: at least 0.")


def _check_tables(where: str, tables: TableOptimConfig, device: str) -> None:
    optimizer = tables.algorithm
    if device == "cpu" and not optimizer.cpu:
        raise ConfigError(
            f"{where}.name = {tables.name} needs a GPU: FBGEMM has no such kernel for the CPU. Use "
            f"{optimizers_with('cpu')}, or adam for tables that fit on each worker."
        )
    if tables.weight_decay and not optimizer.weight_decay:
        instead = f"{where}.l2" if optimizer.dense else optimizers_with("weight_decay")
        raise ConfigError(
            f"{where}.weight_decay = {tables.weight_decay}: {tables.name} has none for tables. "
            f"Use {instead}, or 0."
        )
    if tables.weight_decay and device == "cpu":
        raise ConfigError(
            f"{where}.weight_decay = {tables.weight_decay} needs a GPU: FBGEMM's CPU kernels "
            f"ignore it. Use 0, or {where}.name = adam with {where}.l2."
        )
    for name in ("weight_decay", "occurrence_l2"):
        if getattr(tables, name) < 0:
            raise ConfigError(f"{where}.{name} = {getattr(tables, name)}: at least 0.")
    if tables.occurrence_l2 and where != "optim.tables":
        raise ConfigError(
            f"{where}.occurrence_l2 = {tables.occurrence_l2}: codebooks are looked up at hashes, "
            "which have no count. Use 0, or optim.tables.occurrence_l2 for the fields' tables."
        )


def fuse_table_optimizer(model: nn.Module, config: OptimConfig) -> None:
    """Declares the tables' optimiser, which sharding then fuses into the backward pass.

    Skips tables under the dense Adam. The model is a CTRModel that is not sharded yet.
    """
    for key, parameter in model.named_parameters():
        table = table_of(key)
        if table is None or is_dense(table, config):
            continue
        tables = optimizer_of(table, config)
        optimizer = tables.algorithm
        settings: dict[str, Any] = {"lr": tables.lr}
        if optimizer.eps:
            settings["eps"] = tables.eps
        if optimizer.moments:
            settings.update(beta1=config.dense.beta1, beta2=config.dense.beta2)
        if tables.weight_decay:
            settings["weight_decay"] = tables.weight_decay
            if optimizer.has_decay_modes:
                settings["weight_decay_mode"] = WeightDecayMode.DECOUPLE
        apply_optimizer_in_backward(resolve_name(optimizer.fused), [parameter], settings)


def set_iteration(fused: CombinedOptimizer, step: int) -> None:
    """Sets the number of past steps in kernels that correct the bias of their moments.

    These kernels count their own forward passes, including those of evaluation, and a checkpoint
    does not hold that count. Without this a resumed run would differ from an undisturbed one.
    """
    for part in _leaves(fused):
        kernel: Any = getattr(part, "_emb_module", None)
        if hasattr(kernel, "iter_cpu"):
            kernel.iter_cpu.fill_(step)
            kernel.iter.fill_(step)


def fused_groups(fused: CombinedOptimizer) -> Iterable[tuple[str, dict[str, Any]]]:
    """Yields (one of its tables, parameter group) of each kernel with tables on this worker."""
    for part in _leaves(fused):
        table = next((t for name in part.params if (t := table_of(name)) is not None), None)
        if table is not None:
            for group in part.param_groups:
                yield table, group


def _leaves(optimizer: Any) -> Iterable[Any]:
    if isinstance(optimizer, CombinedOptimizer):
        for _, part in optimizer.optimizers:
            yield from _leaves(part)
    else:
        yield optimizer
