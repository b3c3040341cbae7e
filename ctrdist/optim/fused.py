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

from ctrdist.config.experiment import OptimConfig
from ctrdist.errors import ConfigError
from ctrdist.models.tables import table_of
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
    tables = config.tables
    if tables.name in _MOMENTS and device == "cpu":
        raise ConfigError(
            f"optim.tables.name = {tables.name} needs a GPU: FBGEMM has no such kernel for the "
            "CPU. Use rowwise_adagrad, adagrad or sgd, or adam for tables that fit on each worker."
        )
    if tables.weight_decay and tables.name not in _DECAYS:
        instead = "optim.tables.l2" if tables.name == "adam" else f"one of {', '.join(_DECAYS)}"
        raise ConfigError(
            f"optim.tables.weight_decay = {tables.weight_decay}: {tables.name} has none for "
            f"tables. Use {instead}, or 0."
        )
    if tables.weight_decay and device == "cpu":
        raise ConfigError(
            f"optim.tables.weight_decay = {tables.weight_decay} needs a GPU: FBGEMM's CPU kernels "
            "ignore it. Use 0, or optim.tables.name = adam with optim.tables.l2."
        )
    if not 0 <= config.ema_decay < 1:
        raise ConfigError(
            f"optim.ema_decay = {config.ema_decay}: from 0, for no average, to below 1; 0.99 "
            "averages over the last hundred steps or so."
        )
    for where, value in (
        ("tables.weight_decay", tables.weight_decay),
        ("dense.weight_decay", config.dense.weight_decay),
    ):
        if value < 0:
            raise ConfigError(f"optim.{where} = {value}: at least 0.")


def fuse_table_optimizer(model: nn.Module, config: OptimConfig) -> None:
    """Declares the tables' optimiser, which sharding then fuses into the backward pass.

    Does nothing for adam.

    Args:
        model: a CTRModel that is not sharded yet.
        config: algorithm and rate.
    """
    name = config.tables.name
    if name == "adam":
        return
    settings: dict[str, Any] = {"lr": config.tables.lr}
    if name != "sgd":
        settings["eps"] = config.tables.eps
    if name in _MOMENTS:
        settings.update(beta1=config.dense.beta1, beta2=config.dense.beta2)
    if config.tables.weight_decay:
        settings["weight_decay"] = config.tables.weight_decay
        if name == "rowwise_adagrad":
            # the only mode of the others; here the default would ignore the decay
            settings["weight_decay_mode"] = WeightDecayMode.DECOUPLE
    tables = [p for key, p in model.named_parameters() if table_of(key) is not None]
    apply_optimizer_in_backward(_CLASSES[name], tables, settings)


def set_iteration(fused: CombinedOptimizer, step: int) -> None:
    """Tells kernels that correct the bias of their moments how many steps were taken.

    They count their own forward passes, those of evaluation too, and a checkpoint has no such
    count: left alone, a resumed run would differ from an undisturbed one.
    """
    for kernel in _kernels(fused):
        if hasattr(kernel, "iter_cpu"):
            kernel.iter_cpu.fill_(step)
            kernel.iter.fill_(step)


def _kernels(optimizer: Any) -> Iterable[Any]:
    if isinstance(optimizer, CombinedOptimizer):
        for _, part in optimizer.optimizers:
            yield from _kernels(part)
    elif hasattr(optimizer, "_emb_module"):
        yield optimizer._emb_module
