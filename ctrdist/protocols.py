"""What the layers above agree on: the batch, a model's tower and its output."""

# B batch, K numeric fields, C categorical fields, F = K + C fields, D embedding dim, R scores

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

SIMPLE_LOGITS = "simple_logits_B"
"""In Output.aux of a model of two encoders: (B,) float32, log-odds by the simple one alone."""
COMPLEX_LOGITS = "complex_logits_B"
"""The same by the complex one. The settings of such a model say `two_encoders`."""
GATE_MEAN = "gate_mean_L"
"""In Output.aux of a tower with gated residuals, while training: (L,) float32 without gradient,
mean of each layer's gate over rows, tokens and dimensions; NaN for no rows."""


@dataclass
class Batch(Pipelineable):
    """Rows of one step on one worker."""

    numeric_BK: Tensor
    """(B, K) float32."""
    sparse: KeyedJaggedTensor
    """Ids of the C categorical fields: keys in schema order, stride B or one more: rows without ids
    fill workers up."""
    label_B: Tensor
    """(B,) float32, 0 or 1."""
    row_B: Tensor
    """(B,) int64: index of the row in its split, which is its origin."""
    user_B: Tensor | None = None
    """(B,) int64, where the schema has a user."""
    global_size: int = 0
    """Rows of this step on all workers: the loss is a sum over B divided by this."""

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        """Copy on another device."""
        return self._map(lambda t: t.to(device=device, non_blocking=non_blocking))

    def record_stream(self, stream: torch.Stream) -> None:
        """Keeps the memory alive until the stream is done with it."""
        self._map(lambda t: t.record_stream(stream) or t)

    def pin_memory(self) -> Batch:
        """Copy in page-locked memory."""
        return self._map(lambda t: t.pin_memory())

    def _map(self, function: Any) -> Batch:
        user_B = None if self.user_B is None else function(self.user_B)
        return Batch(
            numeric_BK=function(self.numeric_BK),
            sparse=function(self.sparse),
            label_B=function(self.label_B),
            row_B=function(self.row_B),
            user_B=user_B,
            global_size=self.global_size,
        )


class Output(NamedTuple):
    """What a model returns for B rows.

    A tuple, because DistributedDataParallel looks for tensors in the types that it knows: behind
    any other class it finds none, and silently leaves the gradients unreduced.
    """

    logits_B: Tensor
    """(B,) float32: log-odds of a click."""
    aux: Mapping[str, Tensor] = {}
    """Further outputs that the model's loss or its diagnostics need."""


@dataclass(frozen=True, kw_only=True)
class PairCodebooks:
    """Tables that are looked up at hashed pairs of a row's ids, and what is read from them."""

    codebooks: int
    """K tables, each with its own hash."""
    rows: int
    """s of each."""
    dim: int
    """d_c of each."""
    init_std: float
    """They start as N(0, std²)."""
    scores: int
    """R numbers that are read from a pair's codewords."""
    group: str
    """Embedding group whose vectors the gate between the codebooks sees."""
    shuffled: bool = False
    """Whether the row's index is hashed with the ids: a control that can memorise nothing."""
    recompute: bool = False
    """Whether backward looks up again instead of keeping what forward has looked up."""


class Tower(Protocol):
    """The dense part of a model: looked-up embeddings in, logits out. Single-device code.

    Two attributes are optional and ask for more in `emb` than groups. `pairs`, a
    :class:`PairCodebooks` or None: emb["pairs"] is (B, R, F, F). `frequency`, a bool:
    emb["frequency"] is (B, F), the standardised logarithm of how often the training rows have the
    row's ids.

    Two more are for diagnostics. `parts`, a mapping of names to patterns of parameter names, as
    fnmatch reads them: whose gradient norms are measured together; what no pattern takes counts as
    the tower's child that holds it. `attention_mass(emb)`: (L, F, F), the mean over rows and heads
    of how much attention each field pays to each in each layer, for a tower that attends to fields.
    """

    groups: Mapping[str, int]
    """Embedding groups it needs: name → dim D.
    Each holds one table per categorical field and one vector per numeric field."""

    def __call__(self, emb: Mapping[str, Tensor]) -> Output:
        """emb: group → (B, F, D), fields in schema order, numeric first (value × field vector).

        Beside the groups, what else the tower asks for.
        """
        ...
