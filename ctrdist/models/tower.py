"""The interface of a tower, the dense part of a model, and the names of its optional outputs."""

# B batch, F fields, D embedding dim, R scores of a pair, L layers

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from ctrdist.batch import Output

GATE_MEAN = "gate_mean_L"
"""Key in Output.aux of a tower with gated residuals, in training: (L,) float32 without gradient,
the mean of each layer's gate over rows, tokens and dimensions; NaN for no rows."""


class Tower(Protocol):
    """The dense part of a model: looked-up embeddings in, logits out. Single-device code.

    A tower may have these further attributes:

    - `pairs`, settings of DEA-R or None: asks for emb["pairs"], (B, R, F, F), see
      :class:`ctrdist.models.dual_attention.pairs.PairMemory`.
    - `frequency`, a bool: asks for emb["frequency"], (B, F), the standardised logarithm of the
      number of training rows that have the row's id.
    - `parts`, a mapping from a name to fnmatch patterns of parameter names: diagnostics measure the
      gradient norm of these parameters together. A parameter that no pattern matches belongs to the
      part named after the child module that holds it.
    - `attention_mass(emb)`, for towers that attend to fields: (L, F, F), the attention that each
      field pays to each other in each layer, as the mean over rows and heads.
    """

    groups: Mapping[str, int]
    """The embedding groups it needs: name → dim D.
    Each holds one table per categorical field and one vector per numeric field."""

    def __call__(self, emb: Mapping[str, Tensor]) -> Output:
        """Returns the logits of B rows.

        Args:
            emb: group → (B, F, D), fields in schema order, numeric fields first (value × vector of
                the field); and what `pairs` and `frequency` ask for.
        """
        ...
