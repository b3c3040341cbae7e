"""Optimisers that FBGEMM fuses into the tables' backward pass."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_training import WeightDecayMode
from torch import nn
from torchrec.optim import LAMB, Adam, PartialRowWiseAdam
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.keyed import CombinedOptimizer
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from ctrdist.config.experiment import OptimConfig, TableOptimConfig
from ctrdist.errors import ConfigError
from ctrdist.models.tables import is_dense, optimizer_of, table_of
from ctrdist.optim.schedule import check_schedule

_CLASSES: dict[str, type[torch.optim.Optimizer]] = {
    "rowwise_adagrad": RowWiseAdagrad,
    "adagrad": torch.optim.Adagrad,
    "sgd": torch.optim.SGD,
    "fused_adam": Adam,
    "fused_rowwise_adam": PartialRowWiseAdam,
    "lamb": LAMB,
}
_MOMENTS = ("fused_adam", "fused_rowwise_adam", "lamb")
"""Have two moments. FBGEMM has no CPU kernels for them."""
_DECAYS = ("rowwise_adagrad", *_MOMENTS)
"""FBGEMM offers weight decay with them."""


def check_optim(config: OptimConfig, device: str) -> None:
    """Refuses what cannot work on the device or has no effect.

    Args:
        config: the optimisers.
        device: cpu or cuda.

    Raises:
        ConfigError: names the setting and what is allowed.
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
    if tables.name in _MOMENTS and device == "cpu":
        raise ConfigError(
            f"{where}.name = {tables.name} needs a GPU: FBGEMM has no such kernel for the "
            "CPU. Use rowwise_adagrad, adagrad or sgd, or adam for tables that fit on each worker."
        )
    if tables.weight_decay and tables.name not in _DECAYS:
        instead = f"{where}.l2" if tables.name == "adam" else f"one of {', '.join(_DECAYS)}"
        raise ConfigError(
            f"{where}.weight_decay = {tables.weight_decay}: {tables.name} has none for "
            f"tables. Use {instead}, or 0."
        )
    if tables.weight_decay and device == "cpu":
        raise ConfigError(
            f"{where}.weight_decay = {tables.weight_decay} needs a GPU: FBGEMM's CPU kernels "
            f"ignore it. Use 0, or {where}.name = adam with {where}.l2."
        )
    if tables.weight_decay < 0:
        raise ConfigError(f"{where}.weight_decay = {tables.weight_decay}: at least 0.")


def fuse_table_optimizer(model: nn.Module, config: OptimConfig) -> None:
    """Declares the tables' optimiser, which sharding then fuses into the backward pass.

    Does nothing where it is adam.

    Args:
        model: a CTRModel that is not sharded yet.
        config: algorithms and rates.
    """
    for key, parameter in model.named_parameters():
        table = table_of(key)
        if table is None or is_dense(table, config):
            continue
        tables = optimizer_of(table, config)
        settings: dict[str, Any] = {"lr": tables.lr}
        if tables.name != "sgd":
            settings["eps"] = tables.eps
        if tables.name in _MOMENTS:
            settings.update(beta1=config.dense.beta1, beta2=config.dense.beta2)
        if tables.weight_decay:
            settings["weight_decay"] = tables.weight_decay
            if tables.name == "rowwise_adagrad":
                # the only mode of the others; here the default would ignore the decay
                settings["weight_decay_mode"] = WeightDecayMode.DECOUPLE
        apply_optimizer_in_backward(_CLASSES[tables.name], [parameter], settings)


def set_iteration(fused: CombinedOptimizer, step: int) -> None:
    """Tells kernels that correct the bias of their moments how many steps were taken.

    They count their own forward passes, those of evaluation too, and a checkpoint has no such
    count: left alone, a resumed run would differ from an undisturbed one.
    """
    for kernel in _kernels(fused):
        if hasattr(kernel, "iter_cpu"):
            kernel.iter_cpu.fill_(step)
            kernel.iter.fill_(step)


def fused_groups(fused: CombinedOptimizer) -> Iterable[tuple[str, dict[str, Any]]]:
    """(a table of it, group with its rate) of each kernel that has tables on this worker."""
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


def _kernels(optimizer: Any) -> Iterable[Any]:
    for part in _leaves(optimizer):
        if hasattr(part, "_emb_module"):
            yield part._emb_module
