"""The share of the tower in the blend with the wide part."""

# N rows of valid on this worker, A shares α

import math

import torch
from torch import Tensor
from torch.nn import functional

from ctrdist.distributed.process_group import sum_over_ranks
from ctrdist.training.build import Engine

SHARES = torch.arange(11, dtype=torch.float64) / 10
"""The values of α to choose from."""
_SURE_CLICKS, _LEAST_CLICKS = 500, 20
"""Rows of the rarer label from which on one standard error is margin enough, and below which
nothing can be chosen."""


def choose_share(
    engine: Engine,
    wide_N: Tensor,
    tower_N: Tensor,
    label_N: Tensor,
    share: float | None = None,
    weight_N: Tensor | None = None,
) -> dict[str, float]:
    """Sets the share α of the tower by the rows of valid; every rank calls it with its own.

    Taken is the α with the largest lower bound of the mean gain, see :func:`lower_bounds`; 0 if
    none is above 0. So chance in a small valid split seldom chooses a worse model.

    Args:
        engine: whose wide part takes the share.
        wide_N: (N,) log-odds of the wide part.
        tower_N: (N,) log-odds of the tower.
        label_N: (N,) 0 or 1.
        share: α, if it was chosen before.
        weight_N: (N,) weights of the rows, by which gains and losses count; None: 1.

    Returns:
        tower_share; tower_logloss, of the tower alone; gain; and gain_bound, the gain less the
        margin. They are the same on all ranks.
    """
    sums_2A, tower, weight = gain_sums(wide_N, tower_N, label_N, weight_N)
    counts = torch.tensor([len(label_N), float(label_N.sum()), tower, weight], dtype=torch.float64)
    sums = sum_over_ranks(torch.cat([sums_2A.flatten(), counts]).to(engine.world.device)).cpu()
    rows, positives, tower_loss, weight = sums[-4:].tolist()
    mean_A, bound_A = lower_bounds(
        *sums[:-4].view(2, -1), rows=rows, positives=positives, weight=weight
    )
    best = int(bound_A.argmax() if share is None else (SHARES - share).abs().argmin())
    engine.model.module.wide.share.fill_(float(SHARES[best]))
    return {
        "tower_share": float(SHARES[best]),
        "tower_logloss": tower_loss / weight,
        "gain": float(mean_A[best]),
        "gain_bound": float(bound_A[best]),
    }


def gain_sums(
    wide_N: Tensor, tower_N: Tensor, label_N: Tensor, weight_N: Tensor | None = None
) -> tuple[Tensor, float, float]:
    """Returns (2, A) sums of the rows' gains and of their squares.

    The gain of a row is the log loss of the wide part minus that of the blend, given their (N,)
    log-odds and the (N,) labels, times its weight. Returns also the tower's summed log loss, and
    the sum of the weights, which are 1 by default.
    """
    sums_2A = torch.zeros(2, len(SHARES), dtype=torch.float64)
    wide_N, tower_N, label_N = wide_N.double(), tower_N.double(), label_N.double()
    weight_N = torch.ones_like(wide_N) if weight_N is None else weight_N.double()
    loss = functional.binary_cross_entropy_with_logits
    anchor_N = loss(wide_N, label_N, reduction="none")
    for a, share in enumerate(SHARES[1:], 1):
        blend_N = torch.lerp(wide_N, tower_N, share)
        gain_N = weight_N * (anchor_N - loss(blend_N, label_N, reduction="none"))
        sums_2A[0, a], sums_2A[1, a] = gain_N.sum(), gain_N.square().sum()
    tower = loss(tower_N, label_N, weight_N, reduction="sum")
    return sums_2A, float(tower), float(weight_N.sum())


def lower_bounds(
    total_A: Tensor, square_A: Tensor, *, rows: float, positives: float, weight: float
) -> tuple[Tensor, Tensor]:
    """Returns the mean gain of each blend, and this less its margin; −∞ where it is not finite.

    The margin is one standard error of the mean. With fewer than 500 rows of the rarer label it is
    two, and with fewer than 20 infinite, but 0 for α = 0.

    Args:
        total_A: (…, A) sums of gains.
        square_A: (…, A) sums of their squares.
        rows: number of rows.
        positives: of them with label 1.
        weight: sum of their weights.
    """
    mean_A = total_A / rows
    error_A = ((square_A / rows - mean_A.square()).clamp(min=0) / max(rows - 1, 1)).sqrt()
    mean_A, error_A = mean_A * (rows / weight), error_A * (rows / weight)
    rarer = min(positives, rows - positives)
    bound_A = mean_A - error_A * (1 if rarer >= _SURE_CLICKS else 2)
    if rarer < _LEAST_CLICKS:
        bound_A[..., 1:] = -math.inf
    return mean_A, torch.where(bound_A.isfinite(), bound_A, -math.inf)
