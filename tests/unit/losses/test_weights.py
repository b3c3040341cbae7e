"""A row with the weight n has n times the loss, and its gradient, of one row."""

import pytest
import torch

from ctrdist.batch import COMPLEX_LOGITS, SIMPLE_LOGITS, Output
from ctrdist.config.losses import LOSSES, LossConfig
from ctrdist.losses.objective import training_loss_sum


@pytest.mark.parametrize("name", LOSSES)
def test_a_weight_repeats_its_row(name):
    torch.manual_seed(3)
    logits = torch.randn(3, 40, requires_grad=True)
    label, weight = (torch.rand(40) < 0.4).float(), torch.randint(0, 4, (40,))

    def loss(times: torch.Tensor, weight_B: torch.Tensor | None) -> torch.Tensor:
        main, simple, complex_ = (each.repeat_interleave(times) for each in logits)
        output = Output(main, {SIMPLE_LOGITS: simple, COMPLEX_LOGITS: complex_})
        config = LossConfig(name=name)
        return training_loss_sum(config, output, label.repeat_interleave(times), weight_B)

    one, many = loss(torch.ones(40, dtype=torch.long), weight.float()), loss(weight, None)
    torch.testing.assert_close(one, many)
    gradients = (torch.autograd.grad(each, logits)[0] for each in (one, many))
    torch.testing.assert_close(*gradients)
