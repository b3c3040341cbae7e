"""One step of training: forward, loss, agreement of the workers, backward, optimisers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

import torch
from torch import Tensor

from ctrdist.distributed.process_group import sum_over_ranks
from ctrdist.protocols import Batch
from ctrdist.training.build import Engine
from ctrdist.training.faults.stopping import StopRequest, Timer
from ctrdist.training.loop.evaluate import autocast
from ctrdist.training.loop.micro_batches import LossScale, TowerPass
from ctrdist.training.loop.prefetch import Pipeline
from ctrdist.training.loop.state import Progress, mix
from ctrdist.training.observe.throughput import Clock


@dataclass
class Step:
    """Takes steps. Every rank has one and takes the same steps."""

    engine: Engine
    progress: Progress
    pipeline: Pipeline
    clock: Clock
    stop: StopRequest
    """May ask this rank to end between two steps."""
    timer: Timer
    """When this rank finds a checkpoint due."""
    refuse: Callable[[Batch, Tensor], NoReturn]
    """Ends the run over a loss that is not finite."""
    loss_scale: LossScale = field(default_factory=LossScale)
    stop_agreed: bool = False
    """Whether a rank was asked to end; all learn it in the same step."""
    due_agreed: bool = False
    """Whether a rank has found a checkpoint due."""

    def take(self, batch: Batch) -> tuple[float, float]:
        """One step of stochastic gradient descent on the mean loss over all workers' rows.

        Args:
            batch: this worker's rows.

        Returns:
            The sum of the losses over all workers' rows, and the gradient norm.

        Raises:
            DataError: the loss is not finite; nothing has been updated.
        """
        train, world = self.engine.experiment.train, self.engine.world
        # drawn anew from (seed, step, rank): dropout repeats after a restart, and no generator's
        # state need be saved
        torch.manual_seed(mix(train.seed, self.progress.step, world.rank))
        self.engine.optimizers.begin_step(self.progress.step, self.progress.lr_factor, train.min_lr)
        if train.precision == "float16" or self.engine.experiment.loader.accumulate > 1:
            return self._sliced(batch)
        with autocast(self.engine):
            output = self.engine.model(batch)
            loss = self.engine.loss_sum(output, batch.label_B)
        total = self._agree(batch, loss)
        self.engine.optimizers.zero_grad()
        # gradients are averaged over the workers, whose shares of the rows may differ by one
        (loss * (world.size / batch.global_size)).backward()
        self.clock.mark("backward")
        norm = self._update()
        self.clock.mark("optimizer")
        return total, norm

    def _update(self) -> float:
        """Moves the weights, and their average after them; the gradient norm."""
        norm = self.engine.optimizers.step()
        if self.engine.ema is not None:
            self.engine.ema.update(self.progress.step)
        return norm

    def _sliced(self, batch: Batch) -> tuple[float, float]:
        self.engine.optimizers.zero_grad()
        half = self.engine.experiment.train.precision == "float16"
        scale = self.loss_scale.value if half else 1.0
        done = TowerPass.run(self.engine, batch, self.engine.experiment.loader.accumulate, scale)
        total = self._agree(batch, done.loss)
        finite = done.finish()
        self.clock.mark("backward")
        if half:
            self.loss_scale.update(finite)
        # an overflow of float16 skips the step; the next has half the scale
        return total, self._update() if finite else float("inf")

    def _agree(self, batch: Batch, loss: Tensor) -> float:
        """The loss summed over the ranks, and with it what one of them was asked or found due."""
        self.pipeline.go_on()
        own = loss.new_tensor([0.0, self.stop.signum, self.timer.due], dtype=torch.float64)
        own[0] = loss.detach()
        total, stop, due = sum_over_ranks(own).tolist()  # on a GPU this waits for the forward pass
        self.stop_agreed, self.due_agreed = bool(stop), bool(due)
        if not math.isfinite(total):
            self.refuse(batch, loss.detach())
        self.clock.mark("forward")
        return total
