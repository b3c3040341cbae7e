"""Batch normalisation over the rows of all workers, on any device.

With it a step computes the same for any number of workers. torch.nn.SyncBatchNorm does not work on
the CPU.
"""

# B rows of this worker, C channels

from typing import Any

import torch
from torch import Tensor, nn

from ctrdist.distributed.process_group import gather_over_ranks, sum_over_ranks


class SynchronisedBatchNorm(nn.BatchNorm1d):
    """BatchNorm1d for (B, C) whose training statistics are those of all workers' rows together."""

    def forward(self, x_BC: Tensor) -> Tensor:
        """x_BC: (B, C); gives (B, C) of the same dtype."""
        if not self.training:
            return super().forward(x_BC)
        assert self.num_batches_tracked is not None and self.momentum is not None
        assert self.running_mean is not None and self.running_var is not None
        y_BC, mean_C, var_C, rows = _Normalise.apply(x_BC, self.weight, self.bias, self.eps)
        with torch.no_grad():
            self.num_batches_tracked += 1
            unbiased_C = var_C * (rows / (rows - 1).clamp(min=1))
            self.running_mean.lerp_(mean_C, self.momentum)
            self.running_var.lerp_(unbiased_C, self.momentum)
        return y_BC


def synchronise_batch_norm(module: nn.Module) -> None:
    """Replaces every BatchNorm1d below a module by the synchronised one, in place.

    Weights and names stay.
    """
    for child in module.modules():
        if type(child) is nn.BatchNorm1d:
            if child.momentum is None or not child.affine or not child.track_running_stats:
                raise AssertionError(
                    "only plain BatchNorm1d with momentum, weights and running statistics is used"
                )
            child.__class__ = SynchronisedBatchNorm


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_BC: Tensor, weight_C: Tensor, bias_C: Tensor, eps: float
    ) -> tuple[Tensor, ...]:
        x32_BC = x_BC.float()
        var_C, mean_C = torch.var_mean(x32_BC, dim=0, correction=0)
        # each worker's mean and variance are merged by their rows (Chan et al. 1979): sums of
        # squares would cancel
        rows = torch.full_like(mean_C[:1], x32_BC.shape[0])
        parts = gather_over_ranks(torch.cat([mean_C, var_C, rows]))
        channels = mean_C.numel()
        means_WC, vars_WC, rows_W1 = parts[:, :channels], parts[:, channels:-1], parts[:, -1:]
        total = rows_W1.sum()
        mean_C = (means_WC * rows_W1).sum(0) / total
        var_C = ((vars_WC + (means_WC - mean_C).square()) * rows_W1).sum(0) / total
        inverse_C = torch.rsqrt(var_C + eps)
        normal_BC = (x32_BC - mean_C) * inverse_C
        ctx.save_for_backward(normal_BC, weight_C, inverse_C, total)
        ctx.dtype = x_BC.dtype
        ctx.mark_non_differentiable(mean_C, var_C, total)
        return (normal_BC * weight_C + bias_C).to(x_BC.dtype), mean_C, var_C, total

    @staticmethod
    def backward(ctx: Any, grad_BC: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        normal_BC, weight_C, inverse_C, total = ctx.saved_tensors
        grad_BC = grad_BC.float()
        bias_grad_C = grad_BC.sum(0)
        weight_grad_C = (grad_BC * normal_BC).sum(0)
        sums = torch.stack([bias_grad_C, weight_grad_C])
        sum_over_ranks(sums)
        x_grad_BC = (grad_BC - (sums[0] + normal_BC * sums[1]) / total) * (weight_C * inverse_C)
        return x_grad_BC.to(ctx.dtype), weight_grad_C, bias_grad_C, None
