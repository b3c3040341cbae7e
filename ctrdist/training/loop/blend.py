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
"""Rows of the rarer label in valid from which on one standard error is margin enough, and below
which nothing can be chosen."""


def choose_share(
    engine: Engine, wide_N: Tensor, tower_N: Tensor, label_N: Tensor
) -> dict[str, float]:
    """Sets the share α of the tower by the rows of valid; every rank calls it with its own.

    Taken is the α with the largest mean gain − standard error, where the gain of a row is the log
    loss of the wide part minus that of the blend; 0 if none is above 0. So chance in a small valid
    split seldom chooses a worse model. With fewer than 500 rows of the rarer label the margin is
    two standard errors, and with fewer than 20 the share stays 0.

    Args:
        engine: whose wide part takes the share.
        wide_N: (N,) log-odds of the wide part.
        tower_N: (N,) log-odds of the tower.
        label_N: (N,) 0 or 1.

    Returns:
        tower_share; tower_logloss, of the tower alone; gain; and gain_bound, the gain less the
        margin. They are the same on all ranks.
    """
    device = engine.world.device
    total_A, square_A = torch.zeros(2, len(SHARES), dtype=torch.float64)
    wide_N, tower_N, label_N = wide_N.double(), tower_N.double(), label_N.double()
    loss = functional.binary_cross_entropy_with_logits
    anchor_N = loss(wide_N, label_N, reduction="none")
    for a, share in enumerate(SHARES[1:], 1):
        blend_N = torch.lerp(wide_N, tower_N, share)
        gain_N = anchor_N - loss(blend_N, label_N, reduction="none")
        total_A[a], square_A[a] = gain_N.sum(), gain_N.square().sum()
    tower = loss(tower_N, label_N, reduction="sum")
    counts = torch.stack([tower.new_tensor(len(label_N)), label_N.sum(), tower])
    sums = sum_over_ranks(torch.cat([total_A, square_A, counts]).to(device)).cpu()
    (total_A, square_A), (rows, positives, tower_loss) = sums[:-3].view(2, -1), sums[-3:].tolist()
    mean_A = total_A / rows
    error_A = ((square_A / rows - mean_A.square()).clamp(min=0) / max(rows - 1, 1)).sqrt()
    rarer = min(positives, rows - positives)
    bound_A = mean_A - error_A * (1 if rarer >= _SURE_CLICKS else 2)
    bound_A = torch.where(bound_A.isfinite(), bound_A, -math.inf)
    best = int(bound_A.argmax()) if rarer >= _LEAST_CLICKS else 0
    engine.model.module.wide.share.fill_(float(SHARES[best]))
    return {
        "tower_share": float(SHARES[best]),
        "tower_logloss": tower_loss / rows,
        "gain": float(mean_A[best]),
        "gain_bound": float(bound_A[best]),
    }
