"""Twin focus loss: (7) of TF4CTR (arXiv:2405.03167v4), for the logits of two encoders."""

# B batch

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor

from ctrdist.batch import COMPLEX_LOGITS, SIMPLE_LOGITS, Output
from ctrdist.config.losses import LossConfig
from ctrdist.losses.log_loss import log_loss_sum
from ctrdist.losses.modulated import cross_entropy, label_log_odds, power

_log = logging.getLogger(__name__)


def twin_focus(config: LossConfig, output: Output, label_B: Tensor) -> Tensor:
    """() float32: log loss of the fused logits plus the losses of both encoders, (12) of TF4CTR."""
    return log_loss_sum(output.logits_B, label_B) + twin_focus_loss_sum(
        output.aux[SIMPLE_LOGITS],
        output.aux[COMPLEX_LOGITS],
        label_B,
        alpha=config.alpha,
        c=config.c,
        gamma=config.gamma,
    )


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


def twin_focus_loss_sum(
    simple_B: Tensor,
    complex_B: Tensor,
    label_B: Tensor,
    *,
    alpha: float,
    c: float,
    gamma: float,
) -> Tensor:
    """N · L_TF of (7): weighs easy rows up for the simple encoder, hard rows for the complex one.

    (7) gives the loss of positive rows only. A negative row has 1 − ŷ in place of ŷ, in the weight
    and in the logarithm, as in the authors' code. The gradient includes that of the weights, which
    (14) leaves out.

    Args:
        simple_B: (B,) log-odds z_s, of any float type and any size.
        complex_B: (B,) log-odds z_c.
        label_B: (B,) y, 0 or 1.
        alpha: α, share of the simple encoder's loss.
        c: from 0 to 1; m of (7) is 2 − c.
        gamma: γ; at 0 both losses are plain cross entropies.

    Returns:
        () float32; 0 for B = 0.
    """
    with torch.autocast(simple_B.device.type, enabled=False):
        simple = simple_loss(label_log_odds(simple_B, label_B), c, gamma).sum()
        complex_ = complex_loss(label_log_odds(complex_B, label_B), c, gamma).sum()
    return alpha * simple + (1 - alpha) * complex_


def simple_loss(u_B: Tensor, c: float, gamma: float) -> Tensor:
    """−(c + p)^γ ln p of each row, p = σ(u) the probability of its label."""
    return power(u_B, c, gamma) * cross_entropy(u_B)


def complex_loss(u_B: Tensor, c: float, gamma: float) -> Tensor:
    """−(m − p)^γ ln p of each row: m − p = (1 − c) + (1 − p) does not cancel."""
    return power(-u_B, 1 - c, gamma) * cross_entropy(u_B)


def least_monotone_c(gamma: float) -> float:
    """The least c from which on simple_loss falls with p everywhere: γ exp(−1 − 1/γ).

    Its derivative by u is −(c + p)^(γ−1) (1 − p) [c + p + γ p ln p]. The bracket is least at
    p = exp(−1 − 1/γ), where it is c − γp. complex_loss always falls with p.
    """
    return gamma * math.exp(-1 - 1 / gamma) if gamma > 0 else 0.0
