"""Trains the wide part: the run's epoch 0, and the anchor of the blend."""

# B rows of this worker, K numeric fields, C categorical fields, R strengths of regularisation

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from signal import SIGTERM

import torch
from torch import Tensor
from torch.nn import functional

from ctrdist.batch import Batch
from ctrdist.config.auto import batch_rows
from ctrdist.config.optimizers import WIDE_TABLES
from ctrdist.data.loader import Loader
from ctrdist.data.rows import weights_of_log
from ctrdist.distributed.process_group import sum_over_ranks
from ctrdist.models.wide import STRENGTHS, WidePart
from ctrdist.training.build import Engine
from ctrdist.training.faults.stopping import Interrupted, StopRequest
from ctrdist.training.loop.evaluate import evaluation_loader

_EPOCHS = ((20_000, 20), (200_000, 8), (math.inf, 4))
"""Training rows below which the wide part takes so many epochs."""
_MOST_ROWS = 20_000_000
"""Rows that are trained on at most, over all epochs: a sample of a log with more."""


def train_wide(
    engine: Engine,
    beat: Callable[[], None],
    stop: StopRequest,
    rows_of: Callable[[Loader], Iterable[Batch]] = lambda loader: loader,
) -> float:
    """Fits the wide part on the training rows; every rank calls it. Returns the last mean loss.

    `beat` is called after each batch. `rows_of` may leave rows of the loader's batches out.

    Adagrad on the log loss with L2 by occurrence, for several strengths at once, of which the best
    on valid is kept. The last epoch counts, not the best on valid.

    Raises:
        Interrupted: `stop` has asked, on this rank or another; nothing was saved.
    """
    split, world = engine.dataset.split("train"), engine.world
    loader = Loader(
        engine.dataset,
        "train",
        replace(engine.experiment.loader, batch_size=max(batch_rows(split.rows), world.size)),
        seed=engine.experiment.train.seed,
        rank=world.rank,
        world_size=world.size,
        pinned=world.device.type == "cuda",
    )
    epochs = next(number for rows, number in _EPOCHS if split.rows < rows)
    steps = math.ceil(loader.steps * min(epochs, _MOST_ROWS / split.rows))
    training = _WideTraining(engine, steps)
    while training.step < steps:
        loss_R, rows = torch.zeros(len(STRENGTHS), dtype=torch.float64), 0
        for batch in rows_of(loader):
            loss_R += training.take(batch.to(world.device, non_blocking=True), stop)
            rows += batch.global_size
            beat()
            if training.step == steps:
                break
        loader.next_epoch()
    return float(loss_R[_choose_strength(engine, beat)] / rows)


def _choose_strength(engine: Engine, beat: Callable[[], None]) -> int:
    """Keeps the regression with the least log loss on valid; every rank calls it.

    Returns its index.
    """
    wide: WidePart = engine.model.module.wide
    valid = engine.dataset.manifest.splits.get("valid")
    if valid is not None and valid.rows >= engine.world.size:
        loss_R = torch.zeros(len(STRENGTHS), dtype=torch.float64, device=engine.world.device)
        with torch.no_grad():
            for given in evaluation_loader(engine, "valid"):
                batch = given.to(engine.world.device, non_blocking=True)
                logits_BR = wide.logits(batch, wide.look_up(batch))
                logits_BR = logits_BR + engine.model.module.log_odds_shift
                weight_B = weights_of_log(batch, valid.negatives_kept)
                loss_R += _losses(logits_BR, batch.label_B, weight_B).sum(0).double()
                beat()
        sum_over_ranks(loss_R)
        if loss_R.isfinite().any():
            wide.column.fill_(int(loss_R.nan_to_num(math.inf).argmin()))
    return int(wide.column)


def _losses(logits_BR: Tensor, label_B: Tensor, weight_B: Tensor | None) -> Tensor:
    """(B, R) log losses, weighted where there are weights."""
    label_BR = label_B.unsqueeze(1).expand_as(logits_BR)
    weight_B1 = None if weight_B is None else weight_B.unsqueeze(1)
    return functional.binary_cross_entropy_with_logits(
        logits_BR, label_BR, weight_B1, reduction="none"
    )


class _WideTraining:
    """Takes steps of the wide part."""

    def __init__(self, engine: Engine, steps: int) -> None:
        self._engine, self._steps = engine, steps
        self._wide: WidePart = engine.model.module.wide
        self.step = 0
        split, device = engine.dataset.split("train"), engine.world.device
        rate = min(max(split.positives, 0.5), split.rows - 0.5) / split.rows
        self._wide.bias_R.fill_(math.log(rate / (1 - rate)))
        self._strength_R = torch.tensor(STRENGTHS, device=device)
        self._rows = split.rows
        self._square_XR = torch.zeros(len(self._wide.weight_KR) + 1, len(STRENGTHS), device=device)
        """Σ g² of the weights of numeric fields, and of the bias."""

    def take(self, batch: Batch, stop: StopRequest) -> Tensor:
        """Takes a step; returns (R,) sums of the losses over all workers' rows, on the CPU."""
        engine, wide, world = self._engine, self._wide, self._engine.world
        assert engine.counts is not None
        factor = 1 - self.step / self._steps
        engine.optimizers.begin_step(self.step, factor, 0.0)
        engine.optimizers.zero_grad()
        weight_BCR = wide.look_up(batch)
        with torch.no_grad():
            logits_BR = wide.logits(batch, weight_BCR)
            grad_BR = torch.sigmoid(logits_BR) - batch.label_B.unsqueeze(1)
            if batch.weight_B is not None:
                grad_BR *= batch.weight_B.unsqueeze(1)
            inverse_BC = engine.counts(batch.sparse, len(logits_BR))
            penalty_BCR = inverse_BC.unsqueeze(2) * self._strength_R * weight_BCR
        # gradients of tables are averaged over the workers
        share = world.size / batch.global_size
        weight_BCR.backward((grad_BR.unsqueeze(1) + penalty_BCR) * share)
        engine.optimizers.step()
        own = [
            batch.numeric_BK.T @ grad_BR,
            grad_BR.sum(0, keepdim=True),
            _losses(logits_BR, batch.label_B, batch.weight_B).sum(0, keepdim=True),
            torch.full_like(grad_BR[:1], stop.signum),
        ]
        sums_YR = sum_over_ranks(torch.cat(own).double())
        if sums_YR[-1, 0]:
            raise Interrupted(0, int(stop.signum) or SIGTERM)
        self._update_numeric((sums_YR[:-2] / batch.global_size).float(), WIDE_TABLES.lr * factor)
        self.step += 1
        return sums_YR[-2].cpu()

    def _update_numeric(self, grad_XR: Tensor, rate: float) -> None:
        """Takes a step of Adagrad with the (K + 1, R) mean gradients of weights and bias."""
        wide = self._wide
        grad_XR[:-1] += self._strength_R / self._rows * wide.weight_KR
        self._square_XR += grad_XR.square()
        change_XR = rate * grad_XR / (self._square_XR.sqrt() + WIDE_TABLES.eps)
        wide.weight_KR -= change_XR[:-1]
        wide.bias_R -= change_XR[-1]
