"""φ of DEA-R: the standardised logarithm of the number of training rows that have an id.

The counts are stored in levels, see :mod:`ctrdist.models.id_counts`, and saved in the checkpoint.
"""

# B batch, C categorical fields, K numeric fields

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ctrdist.models.id_counts import log_counts, mean_over_ids
from ctrdist.schema import COUNT_LEVELS, Schema


class Frequency(nn.Module):
    """(B, F) φ of a batch's fields; 0 until it is filled.

    An id without a count (unknown, padding) has the count 0. A multi-valued field has the mean over
    its ids. A numeric field has the count of all rows, as every row trains its vector.
    """

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        fields = len(schema.categorical)
        self.numeric = len(schema.numeric)
        self.register_buffer("ends_CQ", torch.zeros(fields, COUNT_LEVELS, dtype=torch.int64))
        self.register_buffer("scale", torch.zeros(3))  # mean, 1 / deviation, ln(1 + rows)
        self.ends_CQ: Tensor
        self.scale: Tensor

    def fill(self, ends: Sequence[Sequence[int]], mean: float, std: float, of_all: float) -> None:
        """Sets the counts of the training rows, see :class:`ctrdist.data.counts.Counts`.

        `ends` are, per categorical field and level q, the first id whose ln(1 + count) is less than
        (q + 1) · COUNT_LEVEL_STEP; `mean` and `std` are those of ln(1 + count) over all ids of the
        training rows; `of_all` is ln(1 + rows).
        """
        self.ends_CQ.copy_(torch.tensor(ends, dtype=torch.int64))
        self.scale.copy_(torch.tensor([mean, 1 / max(std, 1e-6), of_all]))

    @torch.no_grad()
    def forward(self, sparse: KeyedJaggedTensor, size: int) -> Tensor:
        """φ: (B, F) float32 for the first B = size rows."""
        log_CS = mean_over_ids(sparse, log_counts(self.ends_CQ, sparse))
        of_numeric_KB = self.scale[2].expand(self.numeric, size)
        log_FB = torch.cat([of_numeric_KB, log_CS[:, :size]])
        return ((log_FB - self.scale[0]) * self.scale[1]).T
