"""Optimisers that FBGEMM fuses into the tables' backward pass."""

from __future__ import annotations

import torch
from torch import nn
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from ctrdist.config.experiment import OptimConfig

_CLASSES: dict[str, type[torch.optim.Optimizer]] = {
    "rowwise_adagrad": RowWiseAdagrad,
    "adagrad": torch.optim.Adagrad,
    "sgd": torch.optim.SGD,
}


def fuse_table_optimizer(model: nn.Module, config: OptimConfig) -> None:
    """Declares the tables' optimiser, which sharding then fuses into the backward pass.

    Does nothing for adam.

    Args:
        model: a CTRModel that is not sharded yet.
        config: algorithm and rate.
    """
    if config.tables.name == "adam":
        return
    settings = {"lr": config.tables.lr}
    if config.tables.name != "sgd":
        settings["eps"] = config.tables.eps
    tables = [p for name, p in model.named_parameters() if ".embedding_bags." in f".{name}"]
    apply_optimizer_in_backward(_CLASSES[config.tables.name], tables, settings)
