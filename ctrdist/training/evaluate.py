"""Exact evaluation of a split: each row once, on all ranks.

Memory is bounded but for the predictions.
"""

# N rows of the split

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ctrdist.data.loader import Loader
from ctrdist.distributed import gather_rows, require_rows_for_all, run_on_main
from ctrdist.metrics.evaluate import evaluate_predictions
from ctrdist.training.build import Engine


@dataclass
class Evaluation:
    """Result of a split."""

    metrics: dict[str, float]
    """The same on all ranks."""
    logits_N: np.ndarray | None
    """(N,) on rank 0, None elsewhere."""
    label_N: np.ndarray | None
    """(N,) on rank 0, None elsewhere."""


def evaluate(engine: Engine, split: str) -> Evaluation:
    """All metrics of a split; gAUC where the schema has users.

    Every rank calls it. Batch statistics of the ranks are averaged first.

    Raises:
        DataError: the split has no rows.
    """
    world, train = engine.world, engine.experiment.train
    loader = Loader(
        engine.dataset,
        split,
        engine.experiment.loader,
        rank=world.rank,
        world_size=world.size,
        shuffle=False,
        batch_size=train.eval_batch_size,
    )
    require_rows_for_all(loader.rows, world, split)
    average_buffers(engine)
    logits, labels, users = [], [], []
    engine.model.eval()
    with torch.no_grad(), autocast(engine):
        for batch in loader:
            output = engine.model(batch.to(world.device))
            logits.append(output.logits_B.float().cpu())
            labels.append(batch.label_B)
            users.append(batch.user_B)
    engine.model.train()
    logits_N, label_N = _gather(logits, world.device), _gather(labels, world.device)
    user_N = None if users[0] is None else _gather(users, world.device)

    def score() -> dict[str, float]:
        assert logits_N is not None and label_N is not None, "only rank 0 has the predictions"
        return evaluate_predictions(logits_N, label_N, user_N)

    metrics = run_on_main(score)
    if metrics["rows"] != loader.rows:
        raise RuntimeError(
            f"split {split}: {metrics['rows']} rows were evaluated, it has {loader.rows}"
        )
    return Evaluation(metrics=metrics, logits_N=logits_N, label_N=label_N)


def autocast(engine: Engine) -> torch.autocast:
    """The context in which the tower computes."""
    wanted = engine.experiment.train.precision
    dtype = torch.float16 if wanted == "float16" else torch.bfloat16
    return torch.autocast(engine.world.device.type, dtype=dtype, enabled=wanted != "float32")


def average_buffers(engine: Engine) -> None:
    """Makes the tower's running statistics equal on all ranks.

    They differ before, as each rank has seen another part of every batch.
    """
    if engine.world.size == 1:
        return
    for buffer in engine.tower.buffers():
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer /= engine.world.size


def _gather(parts: Sequence[Tensor | None], device: torch.device) -> np.ndarray | None:
    joined = torch.cat([part for part in parts if part is not None]).to(device)
    gathered = gather_rows(joined)
    return None if gathered is None else gathered.cpu().numpy()
