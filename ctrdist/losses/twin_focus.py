"""Twin focus loss: (7) of TF4CTR (arXiv:2405.03167v4), for the logits of two encoders."""

# B batch

from __future__ import annotations

import math

import torch
from torch import Tensor

from ctrdist.losses.modulated import cross_entropy, label_log_odds, power


def twin_focus_loss_sum(
    simple_B: Tensor,
    complex_B: Tensor,
    label_B: Tensor,
    *,
    alpha: float,
    c: float,
    gamma: float,
) -> Tensor:
    """N · L_TF of (7): the simple encoder is held to easy rows, the complex one to hard rows.

    (7) writes the loss of positive rows only. A negative row has 1 − ŷ in place of ŷ, in weight and
    logarithm alike, as in the authors' code. The weights are differentiated too: (14) leaves that
    part of the gradient out.

    Args:
        simple_B: (B,) log-odds z_s, of any float type and any size.
        complex_B: (B,) log-odds z_c.
        label_B: (B,) y, 0 or 1.
        alpha: share of the simple encoder's loss.
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
    """The least c at which simple_loss falls with p everywhere: γ exp(−1 − 1/γ).

    Its derivative by u is −(c + p)^(γ−1) (1 − p) [c + p + γ p ln p]. The bracket is least at
    p = exp(−1 − 1/γ), where it is c − γp. complex_loss always falls with p.
    """
    return gamma * math.exp(-1 - 1 / gamma) if gamma > 0 else 0.0
