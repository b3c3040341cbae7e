"""The losses: each is a function of its settings, a model's output and the (B,) labels, 0 or 1.

Rows may have weights, (B,), with which their losses are multiplied.

All give () float32, a sum over the rows in nats, because only the caller knows the number of rows
of the step on all workers; 0 for B = 0. Log-odds may have any float type and size. Sums are float32
also under the caller's autocast: bfloat16 loses most of a sum over thousands of rows.

With label y and log-odds z, u = (2y − 1)z are the log-odds of the label itself: its probability is
p = σ(u), its cross entropy is −ln p, and 1 − p = σ(−u). So negative rows mirror positive rows.
"""

# B batch

import logging
import math
from pkgutil import resolve_name

import torch
from torch import Tensor
from torch.nn import functional

from ctrdist.batch import COMPLEX_LOGITS, SIMPLE_LOGITS, Output
from ctrdist.config.losses import LOSSES, LossConfig

_log = logging.getLogger(__name__)


def training_loss_sum(
    config: LossConfig, output: Output, label_B: Tensor, weight_B: Tensor | None = None
) -> Tensor:
    """Computes the loss that the settings choose from :data:`ctrdist.config.losses.LOSSES`.

    Each row counts by its weight, (B,), where there are weights.
    ctrdist.models.registry.check_loss tells whether the model's output fits the loss.
    """
    entry = LOSSES[config.name]
    loss: Tensor = resolve_name(f"ctrdist.losses.{entry.function}")(
        config, output, label_B, weight_B
    )
    if not entry.two_encoders:
        # Heads of encoders that nothing else reads get a gradient of 0: DistributedDataParallel
        # refuses the step after one in which a weight got none.
        for key in (SIMPLE_LOGITS, COMPLEX_LOGITS):
            if key in output.aux:
                loss = loss + 0.0 * output.aux[key].sum()
    return loss


def log(
    config: LossConfig, output: Output, label_B: Tensor, weight_B: Tensor | None = None
) -> Tensor:
    """−Σ_b ln p: the log loss, equation (17) of DLF before its division by N."""
    return log_loss_sum(output.logits_B, label_B, weight_B)


def log_loss_sum(logits_B: Tensor, label_B: Tensor, weight_B: Tensor | None = None) -> Tensor:
    """−Σ_b w [y ln σ(z) + (1−y) ln(1−σ(z))] of (B,) log-odds z and weights w, 1 by default."""
    with torch.autocast(logits_B.device.type, enabled=False):
        return functional.binary_cross_entropy_with_logits(
            logits_B.float(), label_B.float(), weight_B, reduction="sum"
        )


def focal(
    config: LossConfig, output: Output, label_B: Tensor, weight_B: Tensor | None = None
) -> Tensor:
    """−Σ_b (1 − p)^γ ln p: the focal loss (Lin et al., ICCV 2017), without its balance of classes.

    With γ = 0 it is the log loss.
    """
    with torch.autocast(label_B.device.type, enabled=False):
        u_B = _label_log_odds(output.logits_B, label_B)
        return _sum(_power(-u_B, 0.0, config.gamma) * _cross_entropy(u_B), weight_B)


def r_ce(
    config: LossConfig, output: Output, label_B: Tensor, weight_B: Tensor | None = None
) -> Tensor:
    """−Σ_b p^γ ln p, p^γ held constant: R-CE, the reweighted loss of Wang et al. (WSDM 2021).

    The weight is smallest for the rows that the model contradicts most. It has no gradient: with
    one, the loss would fall as p goes to 0 and push such rows away from their label. γ is their β;
    with γ = 0 it is the log loss.
    """
    with torch.autocast(label_B.device.type, enabled=False):
        u_B = _label_log_odds(output.logits_B, label_B)
        return _sum(_power(u_B.detach(), 0.0, config.gamma) * _cross_entropy(u_B), weight_B)


def twin_focus(
    config: LossConfig, output: Output, label_B: Tensor, weight_B: Tensor | None = None
) -> Tensor:
    """Log loss of the fused logits plus the losses of both encoders: (12) of TF4CTR."""
    encoders = (output.aux[SIMPLE_LOGITS], output.aux[COMPLEX_LOGITS])
    fused = log_loss_sum(output.logits_B, label_B, weight_B)
    return fused + twin_focus_loss_sum(config, *encoders, label_B, weight_B)


def twin_focus_loss_sum(
    config: LossConfig,
    simple_B: Tensor,
    complex_B: Tensor,
    label_B: Tensor,
    weight_B: Tensor | None = None,
) -> Tensor:
    """N · L_TF, (7) of TF4CTR (arXiv:2405.03167v4), of both encoders' (B,) log-odds.

    It weighs easy rows up for the simple encoder, hard rows for the complex one. (7) gives the loss
    of positive rows only. A negative row has 1 − ŷ in place of ŷ, in the weight and in the
    logarithm, as in the authors' code. The gradient includes that of the weights, which (14) leaves
    out. m of (7) is 2 − c.
    """
    with torch.autocast(label_B.device.type, enabled=False):
        simple = simple_loss(_label_log_odds(simple_B, label_B), config.c, config.gamma)
        complex_ = complex_loss(_label_log_odds(complex_B, label_B), config.c, config.gamma)
        return config.alpha * _sum(simple, weight_B) + (1 - config.alpha) * _sum(complex_, weight_B)


def simple_loss(u_B: Tensor, c: float, gamma: float) -> Tensor:
    """−(c + p)^γ ln p of each row, p = σ(u) the probability of its label."""
    return _power(u_B, c, gamma) * _cross_entropy(u_B)


def complex_loss(u_B: Tensor, c: float, gamma: float) -> Tensor:
    """−(m − p)^γ ln p of each row: m − p = (1 − c) + (1 − p) does not cancel."""
    return _power(-u_B, 1 - c, gamma) * _cross_entropy(u_B)


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


def least_monotone_c(gamma: float) -> float:
    """The least c from which on simple_loss falls with p everywhere: γ exp(−1 − 1/γ).

    Its derivative by u is −(c + p)^(γ−1) (1 − p) [c + p + γ p ln p]. The bracket is least at
    p = exp(−1 − 1/γ), where it is c − γp. complex_loss always falls with p.
    """
    return gamma * math.exp(-1 - 1 / gamma) if gamma > 0 else 0.0


def _sum(loss_B: Tensor, weight_B: Tensor | None) -> Tensor:
    return loss_B.sum() if weight_B is None else (loss_B * weight_B).sum()


def _label_log_odds(logits_B: Tensor, label_B: Tensor) -> Tensor:
    return (2 * label_B.float() - 1) * logits_B.float()


def _cross_entropy(u_B: Tensor) -> Tensor:
    return -functional.logsigmoid(u_B)


def _power(u_B: Tensor, offset: float, gamma: float) -> Tensor:
    """(offset + σ(u))^γ of each row, for any u and offset ≥ 0.

    It is computed through logarithms: a power of the sum itself has the gradient ∞ · 0 where γ < 1
    and the sum rounds to 0.
    """
    log_B = functional.logsigmoid(u_B)
    if offset:
        log_B = torch.logaddexp(log_B, torch.full_like(log_B, math.log(offset)))
    return (gamma * log_B).exp()
