"""The tables' optimiser for data-parallel tables, where nothing is fused into the backward pass.

TorchRec leaves these to the dense optimiser, so that a table's algorithm and rate would change with
the plan. Here they follow the same arithmetic as FBGEMM's kernels, on the dense gradient, and keep
their state under the same names and shapes: a checkpoint loads under either kind.
"""

# R rows of a table, D columns, T rows that a step has looked up

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ctrdist.config.experiment import OptimConfig, TableOptimConfig
from ctrdist.models.tables import optimizer_of, table_of

FIRST, SECOND = "momentum1", "exp_avg_sq"
"""TorchRec's names of the state of fused tables."""


class CopiedTables:
    """Updates tables of which each worker holds a copy, from gradients that were averaged.

    As in FBGEMM, rows that no worker has looked up stay as they are, with their state.
    """

    def __init__(self, tables: Mapping[str, Tensor], config: OptimConfig) -> None:
        """Makes the state.

        Args:
            tables: name of the parameter → (R, D) weights.
            config: algorithm and rate.
        """
        self._config = config
        self._tables = dict(tables)
        self._state = {
            name: self._new_state(optimizer_of(str(table_of(name)), config).name, weight)
            for name, weight in tables.items()
        }

    @torch.no_grad()
    def step(self, lr_of: Callable[[str], float], iteration: int) -> None:
        """Updates all tables.

        Args:
            lr_of: name of a table → its rate in this step.
            iteration: its number, from 1.
        """
        for name, parameter in self._tables.items():
            if parameter.grad is None:
                continue
            weight_RD = parameter.detach().as_subclass(Tensor)
            grad_RD = parameter.grad.as_subclass(Tensor)
            rows_T = grad_RD.any(dim=1).nonzero().flatten()
            grad_TD = grad_RD[rows_T].float()
            table = str(table_of(name))
            settings, lr = optimizer_of(table, self._config), lr_of(table)
            direction_TD = self._direction(settings, self._state[name], rows_T, grad_TD, iteration)
            kept_TD = weight_RD[rows_T].float()
            kept_TD *= 1 - lr * settings.weight_decay
            weight_RD[rows_T] = (kept_TD - lr * direction_TD).to(weight_RD.dtype)

    def zero_grad(self) -> None:
        """Forgets the gradients of all tables, which may be parts of one tensor."""
        for parameter in self._tables.values():
            parameter.grad = None

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """State by parameter, named as TorchRec names that of fused tables."""
        return {name: state for name, state in self._named_state().items() if state}

    def _named_state(self) -> dict[str, dict[str, Tensor]]:
        result = {}
        for name, state in self._state.items():
            table = table_of(name)
            result[name] = {f"{table}.{key}": value for key, value in state.items()}
        return result

    def _new_state(self, optimizer: str, weight_RD: Tensor) -> dict[str, Tensor]:
        device = weight_RD.device
        whole, rows = tuple(weight_RD.shape), (weight_RD.shape[0],)
        shapes: dict[str, dict[str, tuple[int, ...]]] = {
            "sgd": {},
            "adagrad": {FIRST: whole},
            "rowwise_adagrad": {FIRST: rows},
            "fused_adam": {FIRST: whole, SECOND: whole},
            "fused_rowwise_adam": {FIRST: whole, SECOND: rows},
        }
        return {
            key: torch.zeros(shape, dtype=torch.float32, device=device)
            for key, shape in shapes[optimizer].items()
        }

    def _direction(
        self,
        settings: TableOptimConfig,
        state: dict[str, Tensor],
        rows_T: Tensor,
        grad_TD: Tensor,
        iteration: int,
    ) -> Tensor:
        """(T, D): what the rate is multiplied by; updates the state of the rows."""
        name, eps = settings.name, settings.eps
        if name == "sgd":
            return grad_TD
        if name == "adagrad":
            sum_TD = state[FIRST][rows_T].addcmul_(grad_TD, grad_TD)
            state[FIRST][rows_T] = sum_TD
            return grad_TD / (sum_TD.sqrt() + eps)
        if name == "rowwise_adagrad":
            sum_T = state[FIRST][rows_T] + grad_TD.square().mean(dim=1)
            state[FIRST][rows_T] = sum_T
            return grad_TD / (sum_T.sqrt() + eps).unsqueeze(1)
        beta1, beta2 = self._config.dense.beta1, self._config.dense.beta2
        first_TD = state[FIRST][rows_T].lerp_(grad_TD, 1 - beta1)
        square = grad_TD.square()
        if name == "fused_rowwise_adam":
            square = square.mean(dim=1)
        second = state[SECOND][rows_T].lerp_(square, 1 - beta2)
        state[FIRST][rows_T], state[SECOND][rows_T] = first_TD, second
        root = (second / (1 - beta2**iteration)).sqrt() + eps
        return first_TD / (1 - beta1**iteration) / (root if root.dim() == 2 else root.unsqueeze(1))
