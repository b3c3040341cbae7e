"""Evaluation of a split: each row once, on all ranks.

Up to train.exact_rows rows the predictions are gathered and the metrics are exact. Above that, the
ranks count into histograms that are summed: memory does not grow with the rows, except for gAUC.
"""

# N rows of the split

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ctrdist.batch import TOWER_LOGITS, WIDE_LOGITS, Output
from ctrdist.data.loader import Loader
from ctrdist.data.rows import weights_of_log
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
from ctrdist.training.faults.non_finite_predictions import (
    abort_on_non_finite_predictions,
    finite,
)
from ctrdist.training.loop.blend import choose_share

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


class _Rows(NamedTuple):
    """The labels of a batch, on the CPU, and its predictions, on the device."""

    logits_B: Tensor
    label_B: Tensor
    user_B: Tensor | None
    wide_B: Tensor | None
    """Log-odds of the wide part; None without one."""
    tower_B: Tensor | None
    weight_B: Tensor | None
    """Weights of the rows, on the CPU; None without any."""


def evaluate(
    engine: Engine,
    split: str,
    on_output: OnOutput = lambda *_: None,
    *,
    choose: bool = False,
    share: float | None = None,
) -> Evaluation:
    """Computes all metrics of a split, gAUC among them if the schema has users.

    Every rank calls it; `on_output` is called after each batch. The ranks' batch statistics are
    averaged first. If the engine has an average of the weights, that is evaluated. Metrics that are
    not finite cost one warning with the reason. With a wide part there are also wide_auc and
    wide_logloss, those of the wide part alone.

    Args:
        engine: whose model is evaluated.
        split: name of the split.
        on_output: sees each batch.
        choose: first sets the share of the tower in the blend by this split, and adds what
            :func:`ctrdist.training.loop.blend.choose_share` finds to the metrics.
        share: that share, if it was chosen before.

    Raises:
        DataError: the split has no rows.
        TrainingError: the model, or its tower, predicts nan or infinity for some rows.
    """
    loader = evaluation_loader(engine, split)
    require_rows_for_all(loader.rows, engine.world, split)
    average_buffers(engine)
    exact = loader.rows <= engine.experiment.train.exact_rows
    found: dict[str, float] = {}
    lost = torch.zeros(1, dtype=torch.float64, device=engine.world.device)
    with engine.averaged():
        rows = _predictions(engine, split, loader, on_output, lost)
        if choose:
            held = [_on_cpu(each) for each in rows]
            wide_N, tower_N, label_N = (
                _joined(held, name) for name in ("wide_B", "tower_B", "label_B")
            )
            weight_N = _joined(held, "weight_B") if _weighted(engine, split) else None
            found = choose_share(engine, wide_N, tower_N, label_N, share, weight_N)
            rows = (_blended(engine, each) for each in held)
        evaluation = (_gathered if exact else _counted)(engine, rows, _weighted(engine, split))
    evaluation.metrics.update(found)
    if sum_over_ranks(lost):
        with engine.averaged():
            abort_on_non_finite_predictions(engine, split, evaluation_loader(engine, split))
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


def _weighted(engine: Engine, split: str) -> bool:
    return engine.dataset.weighted or engine.dataset.split(split).negatives_kept < 1


def why_not_finite(metrics: dict[str, float]) -> str:
    """Says which metrics of an evaluation are not finite and why; empty if all are."""
    names = [name for name, value in metrics.items() if not math.isfinite(value)]
    if not names:
        return ""
    rows, positives = metrics["rows"], metrics["positives"]
    if positives in (0, rows):
        reason = f"all {rows:,.0f} rows have label {0 if positives == 0 else 1}"
    elif not math.isfinite(metrics["logloss"]):
        reason = f"all {rows:,.0f} rows have the weight 0"
    else:  # gauc
        reason = "no user has rows of both labels"
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} not finite: {reason}"


def _predictions(
    engine: Engine, split: str, loader: Loader, on_output: OnOutput, lost: Tensor
) -> Iterator[_Rows]:
    """This rank's rows with their predictions, float32; lost counts those that are not finite."""
    kept = engine.dataset.split(split).negatives_kept
    engine.model.eval()
    with torch.no_grad(), engine.autocast():
        for batch in loader:
            output = engine.model(batch.to(engine.world.device, non_blocking=True))
            lost += (~finite(output)).sum()
            wide_B, tower_B = output.aux.get(WIDE_LOGITS), output.aux.get(TOWER_LOGITS)
            weight_B = weights_of_log(batch, kept)
            logits_B = output.logits_B.float()
            yield _Rows(logits_B, batch.label_B, batch.user_B, wide_B, tower_B, weight_B)
            on_output(output, batch.label_B)
    engine.model.train()


def _blended(engine: Engine, rows: _Rows) -> _Rows:
    """The same rows with the share that the tower has by now."""
    device = engine.world.device
    assert rows.wide_B is not None and rows.tower_B is not None
    wide_B, tower_B = rows.wide_B.to(device), rows.tower_B.to(device)
    return rows._replace(logits_B=engine.model.module.wide.blend(wide_B, tower_B))


def _on_cpu(rows: _Rows) -> _Rows:
    return _Rows(*(None if each is None else each.cpu() for each in rows))  # type: ignore[arg-type]


def _joined(rows: Sequence[_Rows], name: str) -> Tensor:
    return torch.cat([getattr(each, name) for each in rows])


def _gathered(engine: Engine, rows: Iterable[_Rows], weighted: bool) -> Evaluation:
    """Exact metrics of the gathered predictions."""
    held, device = [_on_cpu(each) for each in rows], engine.world.device
    logits_N, label_N, user_N, wide_N, weight_N = (
        _gather([getattr(each, name) for each in held], device)
        for name in ("logits_B", "label_B", "user_B", "wide_B", "weight_B")
    )

    def score() -> dict[str, float]:
        metrics = evaluate_predictions(logits_N, label_N, user_N, weight_N)
        if wide_N is None:
            return metrics
        return metrics | _of_wide(evaluate_predictions(wide_N, label_N, None, weight_N))

    metrics = run_on_main(score)
    if not engine.world.is_main:
        return Evaluation(metrics=metrics, histogram=None)
    histogram = ScoreHistogram(weighted=weighted)
    given = (logits_N, label_N, *([weight_N] if weighted else []))
    for parts in zip(*(torch.from_numpy(each).split(_AT_ONCE) for each in given), strict=True):
        histogram.add(*parts)
    return Evaluation(metrics=metrics, histogram=histogram)


def _counted(engine: Engine, rows: Iterable[_Rows], weighted: bool) -> Evaluation:
    """Metrics of the ranks' histograms, summed."""
    world = engine.world
    histogram, wide = ScoreHistogram(world.device, weighted=weighted), None
    scores, users, weights = [], [], []
    for each in rows:
        label_B = each.label_B.to(world.device)
        weight_B = None if each.weight_B is None else each.weight_B.to(world.device)
        histogram.add(each.logits_B.to(world.device), label_B, weight_B)
        if each.wide_B is not None:
            wide = wide or ScoreHistogram(world.device, weighted=weighted)
            wide.add(each.wide_B.to(world.device), label_B, weight_B)
        if each.user_B is not None:
            scores.append(each.logits_B.cpu())
            users.append(torch.stack([each.user_B, each.label_B.long()]))
            if each.weight_B is not None:
                weights.append(each.weight_B)
    for tensor in (*histogram.tensors(), *(() if wide is None else wide.tensors())):
        sum_over_ranks(tensor)
    metrics = histogram.metrics() | _of_wide(None if wide is None else wide.metrics())
    if users:
        weight_N = torch.cat(weights) if weighted else None
        metrics["gauc"] = _gauc_by_user(torch.cat(scores), torch.cat(users, 1), weight_N, world)
    return Evaluation(metrics=metrics, histogram=histogram if world.is_main else None)


def _of_wide(metrics: dict[str, float] | None) -> dict[str, float]:
    """The metrics of the wide part alone that are kept; none without one."""
    return {} if metrics is None else {f"wide_{name}": metrics[name] for name in ("auc", "logloss")}


def _gauc_by_user(
    score_N: Tensor, user_label_2N: Tensor, weight_N: Tensor | None, world: World
) -> float:
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
    weights = None if weight_N is None else exchange(weight_N).astype(np.float64)
    sums = sum_over_ranks(
        torch.tensor(gauc_sums(*own, weights), dtype=torch.float64, device=device)
    )
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
