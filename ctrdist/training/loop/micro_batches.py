"""A step whose tower runs in micro-batches, or under a scaled loss.

The batch is looked up once. The tower's gradients are summed over the micro-batches, and those of
the looked-up rows go back through the lookup together. So tables are updated once per step from the
whole batch's gradient, whichever optimiser they have: accumulating over whole backward passes would
update fused tables once per micro-batch, which is another algorithm.
"""

# B rows of this worker

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from ctrdist.batch import Batch
from ctrdist.losses.objective import training_loss_sum
from ctrdist.training.build import Engine
from ctrdist.training.observe.observers import Observers


@dataclass
class LossScale:
    """The factor on the loss that keeps float16 gradients from vanishing."""

    value: float = 65536.0
    """A power of two."""
    steps: int = 0
    """Steps since the last change."""
    patience: int = 2000
    """Steps without overflow after which it doubles."""

    def update(self, finite: bool) -> None:
        """Halves after an overflow; doubles after `patience` steps without one."""
        self.steps += 1
        if not finite:
            self.value, self.steps = self.value / 2, 0
        elif self.steps == self.patience:
            self.value, self.steps = self.value * 2, 0

    def state_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {"version": 1, "value": self.value, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resumes from saved values."""
        self.value, self.steps = state["value"], state["steps"]


@dataclass
class TowerPass:
    """The tower's gradients, computed; the tables have not been updated."""

    loss: Tensor
    """() float32, the sum over this worker's rows."""
    _engine: Engine
    _emb: dict[str, Tensor]
    _grads: dict[str, Tensor]
    _scale: float

    @classmethod
    def run(
        cls,
        engine: Engine,
        batch: Batch,
        emb: dict[str, Tensor],
        observers: Observers,
        *,
        micro_batches: int,
        scale: float,
    ) -> TowerPass:
        """Runs the tower forward and backward on each micro-batch of a batch that was looked up.

        There is at most one micro-batch per row. The engine's dense gradients are empty before. The
        loss is multiplied by the scale.
        """
        # every worker has at least so many rows, so all run the same number of micro-batches
        number = max(1, min(micro_batches, batch.global_size // engine.world.size))
        rows = [len(part) for part in batch.label_B.tensor_split(number)]
        leaves = {
            group: [part.detach().requires_grad_() for part in looked_up.split(rows)]
            for group, looked_up in emb.items()
        }
        share = scale * engine.world.size / batch.global_size
        weights = [None] * number if batch.weight_B is None else batch.weight_B.split(rows)
        total = torch.zeros((), device=engine.world.device)
        for index, label_B in enumerate(batch.label_B.split(rows)):
            with engine.autocast():
                output = engine.tower({group: parts[index] for group, parts in leaves.items()})
                observers.tell(lambda o, out=output, label=label_B: o.on_output(out, label))  # type: ignore[misc]
                loss = training_loss_sum(engine.experiment.loss, output, label_B, weights[index])
            (loss * share).backward()
            total += loss.detach()
        grads = {
            group: torch.cat([torch.zeros_like(p) if p.grad is None else p.grad for p in parts])
            for group, parts in leaves.items()
        }
        return cls(total, engine, emb, grads, scale)

    def finish(self) -> bool:
        """Updates fused tables, and averages the other gradients over the workers.

        Returns:
            True if the gradients were finite. Otherwise, on any worker, nothing was updated.
        """
        dense = self._engine.optimizers.dense_parameters
        if self._scale != 1:
            made = [p.grad for p in dense if p.grad is not None]
            for grad in (*made, *self._grads.values()):
                grad.div_(self._scale)
            finite = [torch.isfinite(grad).all() for grad in (*made, *self._grads.values())]
            everywhere = torch.stack(finite).all().float()
            dist.all_reduce(everywhere, op=dist.ReduceOp.MIN)
            if not everywhere:
                self._engine.optimizers.zero_grad()
                return False
        # a group that is computed from the data alone has no weight behind it
        learned = [group for group, looked_up in self._emb.items() if looked_up.requires_grad]
        torch.autograd.backward(
            [self._emb[group] for group in learned], [self._grads[group] for group in learned]
        )
        made = [p.grad for p in dense if p.grad is not None]
        if self._engine.world.size > 1 and made:
            joined = parameters_to_vector(made)
            dist.all_reduce(joined)
            vector_to_parameters(joined / self._engine.world.size, made)
        return True
