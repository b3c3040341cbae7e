"""The tables' optimiser for data-parallel tables, for which nothing is fused into backward.

TorchRec leaves such tables to the dense optimiser, so that the algorithm and the rate of a table
would change with the plan. Here they have the arithmetic of FBGEMM's kernels, on the dense
gradient. Their state has the same names and shapes as that of sharded tables, so that a checkpoint
loads under either kind.
"""

# R rows of a table, D columns, T rows that a step has looked up

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ctrdist.config.optimizers import MOMENT1, MOMENT2, ROW, OptimConfig, TableOptimConfig
from ctrdist.models.tables import optimizer_of, table_of


class ReplicatedTables:
    """Updates tables of which each worker holds a copy, from averaged gradients.

    As in FBGEMM, rows that no worker has looked up stay as they are, and so does their state.
    """

    def __init__(self, tables: Mapping[str, Tensor], config: OptimConfig) -> None:
        """Creates the state of tables: name of the parameter → (R, D) weights."""
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
            direction_TD = _direction(self._state[name], rows_T, grad_TD, settings, betas, step)
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


def _direction(
    state: Mapping[str, Tensor],
    rows_T: Tensor,
    grad_TD: Tensor,
    optimizer: TableOptimConfig,
    betas: tuple[float, float],
    step: int,
) -> Tensor:
    """Updates the state of the looked-up rows and gives the direction, (T, D).

    SGD: g. Adagrad: g / (√Σg² + ε). Adam: m̂ / (√v̂ + ε), where the moments of a row decay only in
    steps that look it up. An optimiser with state for each row has mean_D(g²) in place of g².
    """
    units = optimizer.algorithm.state
    if not units:
        return grad_TD
    by_row = ROW in units.values()
    direction_TD = grad_TD
    held = state[MOMENT1][rows_T]
    if MOMENT2 in units:
        square = grad_TD.square().mean(dim=1) if by_row else grad_TD.square()
        second = state[MOMENT2][rows_T].lerp_(square, 1 - betas[1])
        first_TD = held.lerp_(grad_TD, 1 - betas[0])
        state[MOMENT1][rows_T], state[MOMENT2][rows_T] = first_TD, second
        direction_TD = first_TD / (1 - betas[0] ** step)
        root = torch.sqrt(second / (1 - betas[1] ** step))
    else:
        total = held + grad_TD.square().mean(dim=1) if by_row else held.addcmul_(grad_TD, grad_TD)
        state[MOMENT1][rows_T] = total
        root = total.sqrt()
    root = root + optimizer.eps
    return direction_TD / (root.unsqueeze(1) if by_row else root)


def _zeros(optimizer: TableOptimConfig, weight_RD: Tensor) -> dict[str, Tensor]:
    return {
        name: torch.zeros(
            weight_RD.shape[:1] if unit == ROW else weight_RD.shape,
            dtype=torch.float32,
            device=weight_RD.device,
        )
        for name, unit in optimizer.algorithm.state.items()
    }
