"""The table of table optimisers, and the settings of all optimisers. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

WEIGHT, ROW = "weight", "row"
"""Units of an optimiser's state: a float32 for each weight of a table, or for each row."""
MOMENT1, MOMENT2 = "momentum1", "exp_avg_sq"
"""TorchRec's names of the state of fused tables."""


@dataclass(frozen=True, kw_only=True)
class TableOptimizer:
    """All that is known of an optimiser of embedding tables."""

    fused: str = ""
    """module:class that TorchRec turns into an FBGEMM kernel fused into the backward pass.
    Empty: Adam on the dense gradient, which needs a copy of the table on each worker."""
    replicated: bool = True
    """ctrdist.optim.replicated has the same arithmetic, for tables of which each worker holds a
    copy. Otherwise it exists for sharded tables only."""
    state: Mapping[str, str] = field(default_factory=dict)
    """Name of a state tensor → WEIGHT or ROW."""
    cpu: bool = True
    """FBGEMM has a kernel for CPUs."""
    eps: bool = True
    """The setting `eps` has an effect."""
    weight_decay: bool = False
    """Its kernel has a decoupled weight decay."""
    has_decay_modes: bool = False
    """Its kernel has several modes of weight decay, and the default mode ignores it."""

    @property
    def moments(self) -> bool:
        """It has the two moments of Adam, with the betas of `optim.dense`."""
        return MOMENT2 in self.state

    @property
    def dense(self) -> bool:
        """It updates whole tables from dense gradients."""
        return not self.fused

    def state_bytes(self, rows: int, columns: int, *, averaged: bool = False) -> int:
        """Returns the bytes of float32 state of a table or of a part of it.

        With `averaged`, optim.ema_decay asks for an average of the weights. It counts as state, and
        only dense tables have one.
        """
        floats = sum(rows * columns if unit == WEIGHT else rows for unit in self.state.values())
        return 4 * (floats + (rows * columns if averaged and self.dense else 0))


TABLE_OPTIMIZERS = {
    "rowwise_adagrad": TableOptimizer(
        fused="torchrec.optim.rowwise_adagrad:RowWiseAdagrad",
        state={MOMENT1: ROW},
        weight_decay=True,
        has_decay_modes=True,
    ),
    "adagrad": TableOptimizer(fused="torch.optim:Adagrad", state={MOMENT1: WEIGHT}),
    "sgd": TableOptimizer(fused="torch.optim:SGD", eps=False),
    "adam": TableOptimizer(state={"exp_avg": WEIGHT, MOMENT2: WEIGHT}),
    "fused_adam": TableOptimizer(
        fused="torchrec.optim:Adam",
        state={MOMENT1: WEIGHT, MOMENT2: WEIGHT},
        cpu=False,
        weight_decay=True,
    ),
    "fused_rowwise_adam": TableOptimizer(
        fused="torchrec.optim:PartialRowWiseAdam",
        state={MOMENT1: WEIGHT, MOMENT2: ROW},
        cpu=False,
        weight_decay=True,
    ),
    "lamb": TableOptimizer(
        fused="torchrec.optim:LAMB",
        replicated=False,
        state={MOMENT1: WEIGHT, MOMENT2: WEIGHT},
        cpu=False,
        weight_decay=True,
    ),
}
TableOptimizerName: TypeAlias = Literal[tuple(TABLE_OPTIMIZERS)]  # type: ignore[valid-type]


def optimizers_with(fact: str) -> str:
    """Names the fused optimisers with a true attribute of this name, for messages: "a, b or c"."""
    *names, last = [n for n, o in TABLE_OPTIMIZERS.items() if getattr(o, fact) and not o.dense]
    return f"{', '.join(names)} or {last}"


@dataclass(frozen=True, kw_only=True)
class TableOptimConfig:
    """Optimiser of the embedding tables."""

    name: TableOptimizerName = "rowwise_adagrad"
    """All but adam are fused into the backward pass and move looked-up rows only; the last three
    need a GPU. adam is dense: for tables that fit on each worker, with whole-table L2."""
    lr: float = 0.01
    """Learning rate."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    l2: float = 0.0
    """λ: adds (λ/2)·Σ‖table‖² over all rows of all tables to each step's loss. Only with adam."""
    occurrence_l2: float = 0.0
    """λ: adds (λ/n)·‖v‖²/2 to a row's loss for each of its looked-up vectors v, where n training
    rows have the same id; for a field of several ids, v is their mean and 1/n the mean of theirs.
    It goes through the gradient, so it works with all optimisers and moves looked-up rows only."""
    weight_decay: float = 0.0
    """Decoupled: looked-up rows lose lr·weight_decay of themselves in each step.
    Not with adagrad, sgd and adam, and only on a GPU: FBGEMM's CPU kernels ignore it."""

    @property
    def algorithm(self) -> TableOptimizer:
        """The entry of the table."""
        return TABLE_OPTIMIZERS[self.name]


WIDE_TABLES = TableOptimConfig(name="adagrad", lr=1.0)
"""Optimiser of the wide part, whose rate falls linearly to 0."""


@dataclass(frozen=True, kw_only=True)
class DenseOptimConfig:
    """Adam for everything but the tables."""

    lr: float = 0.001
    """Learning rate."""
    beta1: float = 0.9
    """Decay of the first moment; also for tables under the Adams and LAMB."""
    beta2: float = 0.999
    """Decay of the second moment; also for tables under the Adams and LAMB."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    l2: float = 0.0
    """Adds (l2/2)·Σ‖w‖² of the dense weights to the loss."""
    weight_decay: float = 0.0
    """Decoupled, as in AdamW: weights lose lr·weight_decay of themselves in each step."""


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Learning rates as a function of the step; reductions after stale epochs come on top."""

    warmup_steps: int = 0
    """Steps over which the rates rise linearly to their configured values."""
    decay: Literal["constant", "linear", "cosine", "inverse_sqrt", "step"] = "constant"
    """The rates after the warm-up.
    With t steps since then and n = decay_steps: linear and cosine fall to the floor at t = n;
    inverse_sqrt is √(n/(n+t)); step multiplies by step_factor every n steps."""
    decay_steps: int = 0
    """n; all but constant need it."""
    step_factor: float = 0.1
    """Factor of the decay named step."""
    floor: float = 0.0
    """Least rate after the warm-up, as a share of the configured one."""
    applies_to: Literal["both", "tables", "dense"] = "both"
    """The rates that follow the schedule; the others stay constant."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimisers."""

    tables: TableOptimConfig = field(default_factory=TableOptimConfig)
    """Optimiser of the embedding tables."""
    codebooks: TableOptimConfig | None = None
    """Optimiser of tables that are looked up at hashed pairs of ids, with the same keys as tables;
    null: that of the embedding tables."""
    dense: DenseOptimConfig = field(default_factory=DenseOptimConfig)
    """Optimiser of everything else."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Warm-up and decay of the learning rates."""
    max_grad_norm: float = 10.0
    """Bound of the gradient norm of dense weights, and of tables under adam; 0 switches it off."""
    ema_decay: float = 0.0
    """Decay per step of an exponential moving average of the weights, below 1; 0: none. The run
    evaluates the average and saves it as the model. It covers dense weights and tables under adam,
    which take that much more memory; fused tables have no average."""
