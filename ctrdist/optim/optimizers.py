"""A run's optimisers behind one interface: fused ones for sharded tables, Adam for the rest."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.optimizers import in_backward_optimizer_filter

from ctrdist.config.optimizers import WIDE_TABLES, OptimConfig
from ctrdist.models.tables import WIDE, is_codebook, is_dense, is_wide, optimizer_of, table_of
from ctrdist.optim.fused import fused_groups, set_iteration
from ctrdist.optim.replicated import ReplicatedTables
from ctrdist.optim.schedule import rate_factor


class Optimizers:
    """Updates all weights that backward has not updated already, and sets all learning rates."""

    def __init__(self, model: DistributedModelParallel, config: OptimConfig) -> None:
        """Collects the parameters of a sharded model."""
        self._config = config
        self._fused = model.fused_optimizer
        unfused = dict(in_backward_optimizer_filter(model.named_parameters()))
        table_of_parameter = {n: t for n in unfused if (t := table_of(n)) is not None}
        self._rest = {n: p for n, p in unfused.items() if n not in table_of_parameter}
        self._tables = {n: unfused[n] for n, t in table_of_parameter.items() if is_dense(t, config)}
        self._replicated = ReplicatedTables(
            {n: unfused[n] for n in table_of_parameter if n not in self._tables}, config
        )
        groups: list[dict[str, Any]] = [
            {
                "kind": "dense",
                "params": list(self._rest.values()),
                "lr": config.dense.lr,
                "eps": config.dense.eps,
                "weight_decay": config.dense.weight_decay,
            }
        ]
        for name, parameter in self._tables.items():
            settings = optimizer_of(table_of_parameter[name], config)
            kind = self._kind(table_of_parameter[name])
            if groups[-1]["kind"] != kind:
                groups.append({"kind": kind, "params": [], "lr": settings.lr, "eps": settings.eps})
            groups[-1]["params"].append(parameter)
        self._adam = torch.optim.Adam(
            groups,
            betas=(config.dense.beta1, config.dense.beta2),
            decoupled_weight_decay=True,
            fused=True,
        )
        for parameter in self._parameters():  # a checkpoint is loaded into state that exists
            self._adam.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(_plain(parameter)),
                "exp_avg_sq": torch.zeros_like(_plain(parameter)),
            }
        self._step = 0
        self._configured = {"dense": config.dense.lr, "tables": config.tables.lr}
        if config.codebooks is not None:
            self._configured["codebooks"] = config.codebooks.lr
        self._lr = {**self._configured, WIDE: WIDE_TABLES.lr}
        self._fused_lr: dict[str, float] = {}

    def zero_grad(self) -> None:
        """Drops the gradients of all weights that are not fused."""
        self._adam.zero_grad(set_to_none=True)
        self._replicated.zero_grad()

    def step(self) -> float:
        """Adds the L2 gradients, clips the global norm and updates the weights that are not fused.

        Returns:
            The norm before clipping, or −1 when clipping is off.
        """
        with torch.no_grad():
            _add_l2(self._rest.values(), self._config.dense.l2)
            for name, table in self._tables.items():
                _add_l2([table], optimizer_of(table_of(name) or "", self._config).l2)
        norm = -1.0
        if self._config.max_grad_norm > 0:
            norm = float(nn.utils.clip_grad_norm_(self._parameters(), self._config.max_grad_norm))
        self._adam.step()
        self._replicated.step(lambda table: self._lr[self._kind(table)], self._step + 1)
        return norm

    def begin_step(self, step: int, factor: float, min_lr: float) -> None:
        """Sets all learning rates for a step, before its backward pass.

        Args:
            step: number of earlier steps.
            factor: share of the rates that is left after epochs without improvement.
            min_lr: lower bound of the rates before the schedule is applied.
        """
        self._step = step
        schedule = self._config.schedule
        scheduled = rate_factor(schedule, step)
        for kind, lr in self._configured.items():
            follows = schedule.applies_to in ("both", "dense" if kind == "dense" else "tables")
            self._lr[kind] = _bounded(lr, factor, min_lr) * (scheduled if follows else 1.0)
        self._lr[WIDE] = WIDE_TABLES.lr * factor
        for group in self._adam.param_groups:
            group["lr"] = self._lr[group["kind"]]
        if not self._fused.params:
            return
        set_iteration(self._fused, step)
        if self._lr != self._fused_lr:
            for table, group in fused_groups(self._fused):
                group["lr"] = self._lr[self._kind(table)]
            # passes the rates on to the kernels; the update itself happens in backward
            self._fused.step()
            self._fused_lr = dict(self._lr)

    @property
    def dense_parameters(self) -> list[Tensor]:
        """All weights except the tables."""
        return list(self._rest.values())

    @property
    def learning_rates(self) -> dict[str, float]:
        """Rates of the last step, but for the wide part's."""
        return {kind: self._lr[kind] for kind in self._configured}

    def tensors(self) -> dict[str, Any]:
        """Returns all state as tensors, sharded like the parameters.

        A checkpoint writes them, or loads into them.
        """
        adam = {
            name: dict(self._adam.state[p]) for name, p in {**self._rest, **self._tables}.items()
        }
        fused: dict[str, Any] = dict(self._replicated.tensors())
        for name, state in self._fused.state_dict()["state"].items():
            tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
            if tensors:  # sgd has none, and a checkpoint never writes an empty dict
                fused[name] = tensors
        return {"adam": adam, **({"fused": fused} if fused else {})}

    def _kind(self, table: str) -> str:
        """Returns the key of a table's learning rate."""
        if is_wide(table):
            return WIDE
        return "codebooks" if self._config.codebooks and is_codebook(table) else "tables"

    def _parameters(self) -> list[Tensor]:
        return [*self._rest.values(), *self._tables.values()]


def _bounded(lr: float, factor: float, least: float) -> float:
    """Returns the rate times a factor of at most 1, but not less than min(rate, least)."""
    return min(lr, max(lr * factor, least))


def _plain(parameter: Tensor) -> Tensor:
    """Returns a plain tensor: zeros_like of TorchRec's parameter class is not one."""
    return parameter.detach().as_subclass(Tensor)


def _add_l2(parameters: Iterable[Tensor], l2: float) -> None:
    if l2:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.add_(_plain(parameter), alpha=l2)
