"""The wide part: logistic regression beside a tower, and the blend of the two."""

# B batch, K numeric fields, C categorical fields, R strengths of regularisation

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from ctrdist.batch import Batch
from ctrdist.models.tables import WIDE, field_table
from ctrdist.schema import Schema, module_key

STRENGTHS = (3.3, 10.0, 33.0, 100.0)
"""λ of the L2 by occurrence of each column, see ctrdist.optim.occurrence."""


class WideTables(EmbeddingBagCollection):
    """The weights of ids: a type of its own, as these tables are never dense and others may be."""


class WidePart(nn.Module):
    """One weight per id and per numeric field, and a bias; trained alone, before the tower.

    FBGEMM's tables have at least four columns, so four regressions are trained at once, each with
    another strength of regularisation; valid chooses one of them. The weights of ids are sharded
    like other tables. The other weights are buffers: their gradient is simple enough to be written
    out, and so the data parallelism of the dense weights, which takes no part in it, does not wait
    for it.
    """

    def __init__(self, schema: Schema) -> None:
        """Declares the tables, on the meta device; all weights start at 0."""
        super().__init__()
        self.tables = WideTables(
            device=torch.device("meta"),
            tables=[field_table(WIDE, field, len(STRENGTHS)) for field in schema.categorical],
        )
        self._keys = [module_key(field.name) for field in schema.categorical]
        self.register_buffer("weight_KR", torch.zeros(len(schema.numeric), len(STRENGTHS)))
        self.register_buffer("bias_R", torch.zeros(len(STRENGTHS)))
        self.register_buffer("column", torch.tensor([STRENGTHS.index(10.0)]))
        self.register_buffer("share", torch.zeros(1))
        self.weight_KR: Tensor
        self.bias_R: Tensor
        self.column: Tensor
        """(1,): index of the chosen strength."""
        self.share: Tensor
        """(1,): α of the blend, from 0 to 1."""

    def look_up(self, batch: Batch) -> Tensor:
        """Returns (B, C, R) weights of the rows' ids, their mean where a field has several."""
        looked_up = self.tables(batch.sparse)
        values = looked_up.values()
        if looked_up.keys() != self._keys:  # a sharded collection may have another order
            values = torch.cat([looked_up[key] for key in self._keys], dim=1)
        return values.unflatten(1, (len(self._keys), -1))[: batch.label_B.numel()]

    def logits(self, batch: Batch, weight_BCR: Tensor) -> Tensor:
        """Returns (B, R) log-odds, given the looked-up weights."""
        return weight_BCR.sum(1) + batch.numeric_BK @ self.weight_KR + self.bias_R

    def forward(self, batch: Batch) -> Tensor:
        """Returns (B,) float32 log-odds of the chosen regression."""
        logits_BR = self.logits(batch, self.look_up(batch))
        return logits_BR.index_select(1, self.column).squeeze(1)

    def blend(self, wide_B: Tensor, tower_B: Tensor) -> Tensor:
        """Returns (1 − α) · wide + α · tower, (B,) float32 log-odds.

        A tower without a share does not matter, even where its log-odds are not finite.
        """
        if not self.share:
            return wide_B
        return torch.lerp(wide_B, tower_B.float(), self.share)
