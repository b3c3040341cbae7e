"""The tables' optimiser for data-parallel tables, for which nothing is fused into backward.

TorchRec leaves such tables to the dense optimiser, so that the algorithm and the rate of a table
would change with the plan. Here they have the arithmetic of FBGEMM's kernels, on the dense
gradient. Their state has the same names and shapes as that of sharded tables, so that a checkpoint
loads under either kind.
"""

# R rows of a table, D columns, T rows that a step has looked up

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ctrdist.config.optimizers import ROW, OptimConfig, TableOptimConfig
from ctrdist.models.tables import optimizer_of, table_of
from ctrdist.optim import update_rules


class ReplicatedTables:
    """Updates tables of which each worker holds a copy, from averaged gradients.

    As in FBGEMM, rows that no worker has looked up stay as they are, and so does their state.
    """

    def __init__(self, tables: Mapping[str, Tensor], config: OptimConfig) -> None:
        """Creates the state.

        Args:
            tables: name of the parameter → (R, D) weights.
            config: algorithm and rate.
        """
        self._config = config
        self._tables = dict(tables)
        self._state = {
            name: _zeros(optimizer_of(str(table_of(name)), config), weight)
            for name, weight in tables.items()
        }

    @torch.no_grad()
    def step(self, lr_of: Callable[[str], float], step: int) -> None:
        """Updates all tables that have a gradient.

        Args:
            lr_of: name of a table → its rate in this step.
            step: number of the step, from 1.
        """
        betas = self._config.dense.beta1, self._config.dense.beta2
        for name, parameter in self._tables.items():
            if parameter.grad is None:
                continue
            weight_RD = parameter.detach().as_subclass(Tensor)
            grad_RD = parameter.grad.as_subclass(Tensor)
            rows_T = grad_RD.any(dim=1).nonzero().flatten()
            grad_TD = grad_RD[rows_T].float()
            table = str(table_of(name))
            settings, lr = optimizer_of(table, self._config), lr_of(table)
            update = update_rules.Update(rows_T, grad_TD, settings.eps, *betas, step)
            rule = getattr(update_rules, settings.algorithm.replicated)
            direction_TD = rule(self._state[name], update)
            kept_TD = weight_RD[rows_T].float()
            kept_TD *= 1 - lr * settings.weight_decay
            weight_RD[rows_T] = (kept_TD - lr * direction_TD).to(weight_RD.dtype)

    def zero_grad(self) -> None:
        """Drops the gradients of all tables."""
        for parameter in self._tables.values():
            parameter.grad = None

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Returns the state by parameter, with TorchRec's names for fused tables."""
        return {
            name: {f"{table_of(name)}.{key}": value for key, value in state.items()}
            for name, state in self._state.items()
            if state
        }


def _zeros(optimizer: TableOptimConfig, weight_RD: Tensor) -> dict[str, Tensor]:
    return {
        name: torch.zeros(
            weight_RD.shape[:1] if unit == ROW else weight_RD.shape,
            dtype=torch.float32,
            device=weight_RD.device,
        )
        for name, unit in optimizer.algorithm.state.items()
    }
