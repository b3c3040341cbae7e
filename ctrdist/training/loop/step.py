"""One step of training: forward, loss, agreement of the workers, backward, optimisers."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NoReturn

import torch
from torch import Tensor

from ctrdist.batch import Batch
from ctrdist.distributed.process_group import sum_over_ranks
from ctrdist.losses.objective import training_loss_sum
from ctrdist.optim.occurrence import penalise
from ctrdist.training.build import Engine
from ctrdist.training.faults.stopping import StopRequest
from ctrdist.training.loop.micro_batches import LossScale, TowerPass
from ctrdist.training.loop.prefetch import Prefetcher
from ctrdist.training.loop.state import Progress
from ctrdist.training.observe.observers import Observers
from ctrdist.training.observe.throughput import StepClock


@dataclass
class Step:
    """Takes steps. Every rank has one and takes the same steps."""

    engine: Engine
    progress: Progress
    prefetcher: Prefetcher
    clock: StepClock
    observers: Observers
    abort: Callable[[Batch, Tensor], NoReturn]
    """Ends the run because of a loss that is not finite."""
    stop: StopRequest = field(default_factory=StopRequest)
    """May ask this rank to end between two steps."""
    checkpoint_at: float = math.inf
    """Time, as time.monotonic() counts, at which this rank asks for a checkpoint."""
    loss_scale: LossScale = field(default_factory=LossScale)
    stop_agreed: bool = False
    """True once a rank was asked to end; all learn it in the same step."""
    checkpoint_agreed: bool = False
    """True if a rank has asked for a checkpoint before this step's backward pass."""

    def take(self, batch: Batch) -> tuple[float, float]:
        """One step of stochastic gradient descent on the mean loss over all workers' rows.

        Returns:
            The sum of the losses over all workers' rows, and the gradient norm: −1 where clipping
            is off, ∞ where float16 gradients overflowed and nothing was updated.

        Raises:
            DataError: the loss is not finite; nothing has been updated.
        """
        engine, train = self.engine, self.engine.experiment.train
        # seeded from (seed, step, rank), so that dropout repeats after a restart without saving the
        # state of a generator
        torch.manual_seed(_mix(train.seed, self.progress.step, engine.world.rank))
        engine.optimizers.begin_step(self.progress.step, self.progress.lr_factor, train.min_lr)
        if train.precision == "float16" or engine.experiment.loader.accumulate > 1:
            total, updates = self._forward_and_backward_in_micro_batches(batch)
        else:
            total, updates = self._forward_and_backward(batch), True
        self.clock.mark("backward")
        if not updates:
            return total, math.inf
        self.observers.tell(lambda observer: observer.on_gradients())
        norm = engine.optimizers.step()
        if engine.ema is not None:
            engine.ema.update(self.progress.step)
        self.clock.mark("optimizer")
        return total, norm

    def _forward_and_backward(self, batch: Batch) -> float:
        engine = self.engine
        with engine.autocast():
            on_lookup = partial(self._on_lookup, batch)
            output = engine.model(batch, on_lookup, self.prefetcher.look_up)
            self.observers.tell(lambda observer: observer.on_output(output, batch.label_B))
            loss = training_loss_sum(engine.experiment.loss, output, batch.label_B, batch.weight_B)
        total = self._end_forward(batch, loss)
        engine.optimizers.zero_grad()
        # gradients are averaged over the workers, whose shares of the rows may differ by one
        (loss * (engine.world.size / batch.global_size)).backward()
        return total

    def _forward_and_backward_in_micro_batches(self, batch: Batch) -> tuple[float, bool]:
        """The summed loss, and False where float16 gradients overflowed."""
        engine = self.engine
        half = engine.experiment.train.precision == "float16"
        engine.optimizers.zero_grad()
        emb = engine.model.module.embed(batch, self.prefetcher.look_up)
        self._on_lookup(batch, emb)
        done = TowerPass.run(
            engine,
            batch,
            emb,
            self.observers,
            micro_batches=engine.experiment.loader.accumulate,
            scale=self.loss_scale.value if half else 1.0,
        )
        total = self._end_forward(batch, done.loss)
        finite = done.finish()
        if half:
            self.loss_scale.update(finite)
        return total, finite

    def _end_forward(self, batch: Batch, loss: Tensor) -> float:
        """Prefetches, and sums the loss over the ranks, with their requests to stop or to save.

        The run is aborted if the sum is not finite.
        """
        self.prefetcher.prepare_next()
        due = time.monotonic() >= self.checkpoint_at
        own = loss.new_tensor([0.0, self.stop.signum, due], dtype=torch.float64)
        own[0] = loss.detach()
        total, stops, saves = sum_over_ranks(own).tolist()  # a GPU's forward pass ends here
        self.stop_agreed, self.checkpoint_agreed = bool(stops), bool(saves)
        if not math.isfinite(total):
            self.abort(batch, loss.detach())
        self.clock.mark("forward")
        return total

    def _on_lookup(self, batch: Batch, emb: dict[str, Tensor]) -> None:
        self.observers.tell(lambda observer: observer.on_lookup(emb))
        engine = self.engine
        strength = engine.experiment.optim.tables.occurrence_l2
        if strength and engine.counts is not None:
            inverse_BC = engine.counts(batch.sparse, batch.label_B.numel())
            # gradients are averaged over the workers, see _forward_and_backward
            strength *= engine.world.size / batch.global_size
            penalise([emb[group] for group in engine.tower.groups], inverse_BC, strength)  # type: ignore[union-attr]


def _mix(*parts: int) -> int:
    """A seed from several numbers."""
    mixed = 0
    for part in parts:
        mixed = (mixed * 6364136223846793005 + part + 1442695040888963407) % 2**63
    return mixed
