"""Binary cross entropy from logits: equation (17) of DLF before its division by N."""

# B batch

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ctrdist.batch import Output
from ctrdist.config.losses import LossConfig


def log(config: LossConfig, output: Output, label_B: Tensor) -> Tensor:
    """() float32: the log loss of an output, see :func:`log_loss_sum`."""
    return log_loss_sum(output.logits_B, label_B)


def log_loss_sum(logits_B: Tensor, label_B: Tensor) -> Tensor:
    """−Σ_b [y ln σ(z) + (1−y) ln(1−σ(z))], in nats.

    It is a sum because only the caller knows the number of rows of the step on all workers.

    Args:
        logits_B: (B,) log-odds z, of any float type and any size: nothing overflows.
        label_B: (B,) y, 0 or 1.

    Returns:
        () float32; 0 for B = 0.
    """
    # float32 also under the caller's autocast: bfloat16 loses most of a sum over thousands of rows
    with torch.autocast(logits_B.device.type, enabled=False):
        return functional.binary_cross_entropy_with_logits(
            logits_B.float(), label_B.float(), reduction="sum"
        )
