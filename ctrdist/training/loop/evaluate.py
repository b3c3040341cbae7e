"""Evaluation of a split: each row once, on all ranks.

Up to train.exact_rows rows the predictions are gathered and the metrics are exact. Above that, the
ranks count into histograms that are summed: memory does not grow with the rows, except for gAUC.
"""

# N rows of the split

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ctrdist.batch import Batch, Output
from ctrdist.data.loader import Loader
from ctrdist.distributed.process_group import (
    World,
    gather_rows,
    require_rows_for_all,
    run_on_main,
    sum_over_ranks,
)
from ctrdist.metrics.auc import gauc_sums
from ctrdist.metrics.evaluate import evaluate_predictions
from ctrdist.metrics.histogram import ScoreHistogram
from ctrdist.training.build import Engine

_AT_ONCE = 2**20
"""Rows that are counted at a time, to bound memory."""

OnOutput = Callable[[Output, Tensor], None]
"""Is shown the output for each batch and its labels (B,)."""

_log = logging.getLogger(__name__)


class Evaluation(NamedTuple):
    """Result of a split."""

    metrics: dict[str, float]
    """Equal on all ranks."""
    histogram: ScoreHistogram | None
    """Scores of all rows, from which curves and calibration are drawn; None but on rank 0."""


def evaluate(engine: Engine, split: str, on_output: OnOutput = lambda *_: None) -> Evaluation:
    """Computes all metrics of a split, gAUC among them if the schema has users.

    Every rank calls it; `on_output` is called after each batch. The ranks' batch statistics are
    averaged first. If the engine has an average of the weights, that is evaluated. Metrics that are
    not finite cost one warning with the reason.

    Raises:
        DataError: the split has no rows.
    """
    loader = evaluation_loader(engine, split)
    require_rows_for_all(loader.rows, engine.world, split)
    average_buffers(engine)
    exact = loader.rows <= engine.experiment.train.exact_rows
    score = _gathered if exact else _counted
    with engine.averaged():
        evaluation = score(engine, loader, on_output)
    if evaluation.metrics["rows"] != loader.rows:
        raise RuntimeError(
            f"split {split}: {evaluation.metrics['rows']} rows were evaluated, it has {loader.rows}"
        )
    reason = why_not_finite(evaluation.metrics)
    if reason and engine.world.is_main:
        _log.warning("split %s: %s", split, reason)
    return evaluation


def evaluation_loader(engine: Engine, split: str) -> Loader:
    """Reads this rank's rows of a split in the order in which they are stored."""
    experiment, world = engine.experiment, engine.world
    return Loader(
        engine.dataset,
        split,
        replace(experiment.loader, batch_size=experiment.train.eval_batch_size),
        rank=world.rank,
        world_size=world.size,
        shuffle=False,
        pinned=world.device.type == "cuda",
    )


def why_not_finite(metrics: dict[str, float]) -> str:
    """Says which metrics of an evaluation are not finite and why; empty if all are."""
    names = [name for name, value in metrics.items() if not math.isfinite(value)]
    if not names:
        return ""
    rows, positives = metrics["rows"], metrics["positives"]
    if not math.isfinite(metrics["logloss"]):
        reason = "the model predicts nan for some rows; lower optim.dense.lr or optim.tables.lr"
    elif positives in (0, rows):
        reason = f"all {rows:,.0f} rows have label {0 if positives == 0 else 1}"
    else:  # gauc
        reason = "no user has rows of both labels"
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} not finite: {reason}"


def _predictions(
    engine: Engine, loader: Loader, on_output: OnOutput
) -> Iterator[tuple[Tensor, Batch]]:
    """This rank's logits (B,) float32 on its device, and their rows."""
    engine.model.eval()
    with torch.no_grad(), engine.autocast():
        for batch in loader:
            output = engine.model(batch.to(engine.world.device, non_blocking=True))
            yield output.logits_B.float(), batch
            on_output(output, batch.label_B)
    engine.model.train()


def _gathered(engine: Engine, loader: Loader, on_output: OnOutput) -> Evaluation:
    """Exact metrics of the gathered predictions."""
    logits, labels, users = [], [], []
    for logits_B, batch in _predictions(engine, loader, on_output):
        logits.append(logits_B.cpu())
        labels.append(batch.label_B)
        users.append(batch.user_B)
    device = engine.world.device
    logits_N, label_N = _gather(logits, device), _gather(labels, device)
    user_N = _gather(users, device)
    metrics = run_on_main(lambda: evaluate_predictions(logits_N, label_N, user_N))
    if not engine.world.is_main:
        return Evaluation(metrics=metrics, histogram=None)
    histogram = ScoreHistogram()
    parts = (torch.from_numpy(values_N).split(_AT_ONCE) for values_N in (logits_N, label_N))
    for logits_B, label_B in zip(*parts, strict=True):
        histogram.add(logits_B, label_B)
    return Evaluation(metrics=metrics, histogram=histogram)


def _counted(engine: Engine, loader: Loader, on_output: OnOutput) -> Evaluation:
    """Metrics of the ranks' histograms, summed."""
    world = engine.world
    histogram = ScoreHistogram(world.device)
    scores, users = [], []
    for logits_B, batch in _predictions(engine, loader, on_output):
        histogram.add(logits_B, batch.label_B.to(world.device))
        if batch.user_B is not None:
            scores.append(logits_B.cpu())
            users.append(torch.stack([batch.user_B, batch.label_B.long()]))
    for tensor in histogram.tensors():
        sum_over_ranks(tensor)
    metrics = histogram.metrics()
    if users:
        metrics["gauc"] = _gauc_by_user(torch.cat(scores), torch.cat(users, 1), world)
    return Evaluation(metrics=metrics, histogram=histogram if world.is_main else None)


def _gauc_by_user(score_N: Tensor, user_label_2N: Tensor, world: World) -> float:
    """Grouped AUC of all ranks' rows: each rank collects the rows of some users and scores them."""
    owner_N = user_label_2N[0] % world.size
    order_N = torch.argsort(owner_N, stable=True)
    sent_R = torch.bincount(owner_N, minlength=world.size)
    device = world.device
    received_R = torch.empty_like(sent_R, device=device)
    dist.all_to_all_single(received_R, sent_R.to(device))
    sent, received = sent_R.tolist(), received_R.tolist()

    def exchange(values_N: Tensor) -> np.ndarray:
        given = values_N[order_N].contiguous().to(device)
        taken = torch.empty(sum(received), dtype=given.dtype, device=device)
        dist.all_to_all_single(taken, given, received, sent)
        return taken.cpu().numpy()

    own = (exchange(score_N), exchange(user_label_2N[1]), exchange(user_label_2N[0]))
    sums = sum_over_ranks(torch.tensor(gauc_sums(*own), dtype=torch.float64, device=device))
    return float(sums[0] / sums[1])


def average_buffers(engine: Engine) -> None:
    """Averages the tower's running statistics, and their averages over steps, over the ranks.

    They differ between ranks, as each has seen another part of every batch.
    """
    if engine.world.size == 1:
        return
    _average_over_ranks(engine)
    if engine.ema is not None:
        engine.ema.exchange()
        _average_over_ranks(engine)
        engine.ema.exchange()


def _average_over_ranks(engine: Engine) -> None:
    for buffer in engine.tower.buffers():
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer /= engine.world.size


def _gather(parts: Sequence[Tensor | None], device: torch.device) -> Any:
    """The rows of all ranks as an array, on rank 0; None on others, and where there are none."""
    joined = [part for part in parts if part is not None]
    gathered = gather_rows(torch.cat(joined).to(device)) if joined else None
    return None if gathered is None else gathered.cpu().numpy()
