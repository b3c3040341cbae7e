"""Batch and Output: the input and the result of a model, shared by loader, models and losses."""

# B batch, K numeric fields, C categorical fields, L layers

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

_T = TypeVar("_T", Tensor, KeyedJaggedTensor)

SIMPLE_LOGITS = "simple_logits_B"
"""Key in Output.aux of a model with two encoders: (B,) float32 log-odds of the simple encoder."""
COMPLEX_LOGITS = "complex_logits_B"
"""Key in Output.aux of a model with two encoders: (B,) float32 log-odds of the complex encoder."""
WIDE_LOGITS = "wide_logits_B"
"""Key in Output.aux of a model with a wide part, in evaluation: (B,) float32 log-odds of it."""
TOWER_LOGITS = "tower_logits_B"
"""Key in Output.aux of a model with a wide part, in evaluation: (B,) float32 log-odds of the tower
alone; logits_B are those of the blend."""
GATE_MEAN = "gate_mean_L"
"""Key in Output.aux of a tower with gated residuals, in training: (L,) float32 without gradient,
the mean of each layer's gate over rows, tokens and dimensions; NaN for no rows."""


@dataclass
class Batch(Pipelineable):
    """Rows of one step on one worker."""

    numeric_BK: Tensor
    """(B, K) float32."""
    sparse: KeyedJaggedTensor
    """Ids of the C categorical fields, keys in schema order. The stride is that of the worker with
    the most rows, B or B + 1; the rows beyond B have no ids."""
    label_B: Tensor
    """(B,) float32, 0 or 1."""
    row_B: Tensor
    """(B,) int64: index of the row in its split."""
    user_B: Tensor | None = None
    """(B,) int64, where the schema has a user."""
    weight_B: Tensor | None = None
    """(B,) float32, where the schema has weights: over their mean in the training rows."""
    global_size: int = 0
    """Rows of this step on all workers: the loss is a sum over B divided by this."""

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        """Returns a copy on another device."""
        return self._map(lambda t: t.to(device=device, non_blocking=non_blocking))

    def record_stream(self, stream: torch.Stream) -> None:
        """Keeps the memory allocated until the stream has used it."""
        self._map(lambda t: t.record_stream(stream) or t)

    def pin_memory(self) -> Batch:
        """Returns a copy in page-locked memory."""
        return self._map(lambda t: t.pin_memory())

    def _map(self, function: Callable[[_T], _T]) -> Batch:
        return Batch(
            numeric_BK=function(self.numeric_BK),
            sparse=function(self.sparse),
            label_B=function(self.label_B),
            row_B=function(self.row_B),
            user_B=None if self.user_B is None else function(self.user_B),
            weight_B=None if self.weight_B is None else function(self.weight_B),
            global_size=self.global_size,
        )


class Output(NamedTuple):
    """Result of a model for B rows.

    It is a tuple because DistributedDataParallel searches only the types that it knows for tensors.
    In any other class it finds none and silently leaves the gradients unreduced.
    """

    logits_B: Tensor
    """(B,) float32: log-odds of a click."""
    aux: Mapping[str, Tensor] = {}
    """Further outputs that the loss or the diagnostics need."""
