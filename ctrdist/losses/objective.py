"""The loss that a run's settings choose, looked up in :data:`ctrdist.config.losses.LOSSES`."""

# B batch

from __future__ import annotations

from pkgutil import resolve_name

from torch import Tensor

from ctrdist.batch import COMPLEX_LOGITS, SIMPLE_LOGITS, Output
from ctrdist.config.losses import LOSSES, LossConfig


def training_loss_sum(config: LossConfig, output: Output, label_B: Tensor) -> Tensor:
    """Computes the loss of B rows, in nats.

    Args:
        config: chooses the loss.
        output: of the model; ctrdist.models.registry.check_loss tells whether it fits the loss.
        label_B: (B,) 0 or 1.

    Returns:
        () float32, a sum over the rows; 0 for B = 0.
    """
    entry = LOSSES[config.name]
    loss: Tensor = resolve_name(f"ctrdist.losses.{entry.function}")(config, output, label_B)
    if not entry.two_encoders:
        # Heads of encoders that nothing else reads get a gradient of 0: DistributedDataParallel
        # refuses the step after one in which a weight got none.
        for key in (SIMPLE_LOGITS, COMPLEX_LOGITS):
            if key in output.aux:
                loss = loss + 0.0 * output.aux[key].sum()
    return loss
