"""The loss that a run is trained with, as its settings choose it."""

# B batch

from __future__ import annotations

import logging

from torch import Tensor

from ctrdist.config.experiment import LossConfig
from ctrdist.losses.log_loss import log_loss_sum
from ctrdist.losses.modulated import focal_loss_sum, r_ce_loss_sum
from ctrdist.losses.twin_focus import least_monotone_c, twin_focus_loss_sum
from ctrdist.protocols import COMPLEX_LOGITS, SIMPLE_LOGITS, Output

_log = logging.getLogger(__name__)


def training_loss_sum(config: LossConfig, output: Output, label_B: Tensor) -> Tensor:
    """The loss of B rows, in nats.

    twin_focus adds its auxiliary losses to the log loss of the fused logits: (12) of TF4CTR.

    Args:
        config: which loss.
        output: of the model; twin_focus needs its encoders' logits
            (ctrdist.models.registry.check_loss).
        label_B: (B,) 0 or 1.

    Returns:
        () float32, a sum over the rows; 0 for B = 0.
    """
    if config.name == "twin_focus":
        return log_loss_sum(output.logits_B, label_B) + twin_focus_loss_sum(
            output.aux[SIMPLE_LOGITS],
            output.aux[COMPLEX_LOGITS],
            label_B,
            alpha=config.alpha,
            c=config.c,
            gamma=config.gamma,
        )
    if config.name == "focal":
        loss = focal_loss_sum(output.logits_B, label_B, config.gamma)
    elif config.name == "r_ce":
        loss = r_ce_loss_sum(output.logits_B, label_B, config.gamma)
    else:
        loss = log_loss_sum(output.logits_B, label_B)
    # Heads of encoders may serve nothing but twin_focus. They get a gradient of 0 all the same:
    # DistributedDataParallel refuses the step after one in which a weight got none.
    for name in (SIMPLE_LOGITS, COMPLEX_LOGITS):
        if name in output.aux:
            loss = loss + 0.0 * output.aux[name].sum()
    return loss


def warn_of_loss(config: LossConfig) -> None:
    """Warns of settings under which some rows are pushed away from their label."""
    least = least_monotone_c(config.gamma)
    if config.name == "twin_focus" and config.alpha > 0 and config.c < least:
        _log.warning(
            "with loss.c = %g and loss.gamma = %g the simple encoder's loss pushes some rows away "
            "from their label; from loss.c = gamma * exp(-1 - 1/gamma) = %.3f on it does not.",
            config.c,
            config.gamma,
            least,
        )
