"""Cross entropy whose rows are weighted by a power of the probability given to their label.

With label y and log-odds z, u = (2y − 1)z are the log-odds of the label itself: its probability is
p = σ(u), its cross entropy is −ln p, and 1 − p = σ(−u). So negative rows mirror positive rows.
"""

# B batch

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from ctrdist.batch import Output
from ctrdist.config.losses import LossConfig


def focal(config: LossConfig, output: Output, label_B: Tensor) -> Tensor:
    """() float32: the focal loss of an output, see :func:`focal_loss_sum`."""
    return focal_loss_sum(output.logits_B, label_B, config.gamma)


def r_ce(config: LossConfig, output: Output, label_B: Tensor) -> Tensor:
    """() float32: the loss R-CE of an output, see :func:`r_ce_loss_sum`."""
    return r_ce_loss_sum(output.logits_B, label_B, config.gamma)


def focal_loss_sum(logits_B: Tensor, label_B: Tensor, gamma: float) -> Tensor:
    """−Σ_b (1 − p)^γ ln p: the focal loss (Lin et al., ICCV 2017), without its balance of classes.

    Args:
        logits_B: (B,) log-odds z, of any float type and any size.
        label_B: (B,) y, 0 or 1.
        gamma: γ; at 0 it is the log loss.

    Returns:
        () float32; 0 for B = 0.
    """
    with torch.autocast(logits_B.device.type, enabled=False):
        u_B = label_log_odds(logits_B, label_B)
        return (power(-u_B, 0.0, gamma) * cross_entropy(u_B)).sum()


def r_ce_loss_sum(logits_B: Tensor, label_B: Tensor, gamma: float) -> Tensor:
    """−Σ_b p^γ ln p, p^γ held constant: R-CE, the reweighted loss of Wang et al. (WSDM 2021).

    The weight is smallest for the rows that the model contradicts most. It has no gradient: with
    one, the loss would fall as p goes to 0 and push such rows away from their label.

    Args:
        logits_B: (B,) log-odds z, of any float type and any size.
        label_B: (B,) y, 0 or 1.
        gamma: γ, their β; at 0 it is the log loss.

    Returns:
        () float32; 0 for B = 0.
    """
    with torch.autocast(logits_B.device.type, enabled=False):
        u_B = label_log_odds(logits_B, label_B)
        return (power(u_B.detach(), 0.0, gamma) * cross_entropy(u_B)).sum()


def label_log_odds(logits_B: Tensor, label_B: Tensor) -> Tensor:
    """(2y − 1)z of each row, in float32: bfloat16 loses most of a sum over thousands of rows."""
    return (2 * label_B.float() - 1) * logits_B.float()


def cross_entropy(u_B: Tensor) -> Tensor:
    """−ln σ(u) of each row, for any u."""
    return -functional.logsigmoid(u_B)


def power(u_B: Tensor, offset: float, gamma: float) -> Tensor:
    """(offset + σ(u))^γ of each row, for any u and offset ≥ 0.

    It is computed through logarithms: a power of the sum itself has the gradient ∞ · 0 where γ < 1
    and the sum rounds to 0.
    """
    log_B = functional.logsigmoid(u_B)
    if offset:
        log_B = torch.logaddexp(log_B, torch.full_like(log_B, math.log(offset)))
    return (gamma * log_B).exp()
