"""A run's optimisers behind one interface: fused ones for sharded tables, Adam for the rest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.optimizers import in_backward_optimizer_filter

from ctrdist.config.experiment import OptimConfig


class Optimizers:
    """Steps what a backward pass has not stepped already, and sets all learning rates."""

    def __init__(self, model: DistributedModelParallel, config: OptimConfig) -> None:
        """Collects the parameters.

        Args:
            model: the sharded model.
            config: algorithms and rates.
        """
        self._config = config
        self._fused = model.fused_optimizer
        dense = dict(in_backward_optimizer_filter(model.named_parameters()))
        self._tables = {
            n: p
            for n, p in dense.items()
            if ".embedding_bags." in f".{n}" and config.tables.name == "adam"
        }
        fused_names = set(self._fused.params)
        self._rest = {
            n: p for n, p in dense.items() if n not in self._tables and n not in fused_names
        }
        groups: list[dict[str, Any]] = [
            {"params": list(self._rest.values()), "lr": config.dense.lr, "eps": config.dense.eps}
        ]
        if self._tables:
            groups.append(
                {
                    "params": list(self._tables.values()),
                    "lr": config.tables.lr,
                    "eps": config.tables.eps,
                }
            )
        self._adam = torch.optim.Adam(groups, betas=(config.dense.beta1, config.dense.beta2))
        for parameter in self._parameters():  # made now: a checkpoint is loaded into what exists
            self._adam.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32),
                "exp_avg": torch.zeros_like(_plain(parameter)),
                "exp_avg_sq": torch.zeros_like(_plain(parameter)),
            }
        self.lr_factor = 1.0

    def zero_grad(self) -> None:
        """Forgets the gradients of what is not fused."""
        self._adam.zero_grad(set_to_none=True)

    def step(self) -> float:
        """Adds the L2 gradients, clips the global norm and updates what is not fused.

        Returns:
            The norm before clipping, or −1 when clipping is off.
        """
        with torch.no_grad():
            _add_l2(self._rest.values(), self._config.dense.l2)
            _add_l2(self._tables.values(), self._config.tables.l2)
        norm = -1.0
        if self._config.max_grad_norm > 0:
            norm = float(nn.utils.clip_grad_norm_(self._parameters(), self._config.max_grad_norm))
        self._adam.step()
        return norm

    def set_lr_factor(self, factor: float, min_lr: float) -> None:
        """Sets all learning rates to their configured value times the factor, at least min_lr."""
        self.lr_factor = factor
        self._adam.param_groups[0]["lr"] = max(self._config.dense.lr * factor, min_lr)
        table_lr = max(self._config.tables.lr * factor, min_lr)
        for group in self._adam.param_groups[1:]:
            group["lr"] = table_lr
        for group in self._fused.param_groups:
            group["lr"] = table_lr
        if self._fused.params:
            # hands the rate to the kernels; the update itself happens in backward
            self._fused.step()

    @property
    def learning_rates(self) -> dict[str, float]:
        """Current rates, to log."""
        return {
            "dense": self._adam.param_groups[0]["lr"],
            "tables": max(self._config.tables.lr * self.lr_factor, 0.0),
        }

    def tensors(self) -> dict[str, Any]:
        """All state as tensors, sharded as the parameters are.

        A checkpoint writes them, or loads into them.
        """
        adam = {
            name: dict(self._adam.state[p]) for name, p in {**self._rest, **self._tables}.items()
        }
        fused = {}
        for name, state in self._fused.state_dict()["state"].items():
            tensors = {
                key: value
                for key, value in state.items()
                if isinstance(value, (Tensor, ShardedTensor))
            }
            if tensors:  # sgd has none, and an empty dict would be an entry that is never written
                fused[name] = tensors
        return {"adam": adam, **({"fused": fused} if fused else {})}

    def _parameters(self) -> list[Tensor]:
        return [*self._rest.values(), *self._tables.values()]


def _plain(parameter: Tensor) -> Tensor:
    """Without TorchRec's parameter class, whose zeros_like is no plain tensor."""
    return parameter.detach().as_subclass(Tensor)


def _add_l2(parameters: Iterable[Tensor], l2: float) -> None:
    if l2:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.add_(_plain(parameter), alpha=l2)
