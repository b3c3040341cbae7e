"""φ of DEA-R: the standardised logarithm of the number of training rows that have an id.

Ids are in the order of falling counts, so ln(1 + count) falls in steps along a vocabulary. Stored
are the ids at which it falls below each of Q levels: kilobytes for a vocabulary of any size, saved
in the checkpoint and equal on all workers. A table of counts would take as much memory as a column
of the field's embedding table, on each worker.
"""

# B batch, S rows of the padded lookup, C categorical fields, K numeric fields, N ids

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ctrdist.schema import COUNT_LEVEL_STEP, COUNT_LEVELS, FIRST_VALUE_ID, Schema

_FIELD = 2**33
"""More than any id: the distance of two fields on one axis."""


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
        fields, stride = len(self.ends_CQ), sparse.stride()
        ids_N, lengths = sparse.values().long(), sparse.lengths().long()
        bag_N = torch.repeat_interleave(lengths, output_size=len(ids_N))
        field_N = bag_N // stride
        # the levels of all fields on one axis, one field after the other
        begin_C = torch.arange(fields, device=ids_N.device) * _FIELD
        falling = (begin_C.unsqueeze(1) + (_FIELD - 1) - self.ends_CQ).flatten()
        wanted_N = field_N * _FIELD + (_FIELD - 1) - ids_N
        level_N = torch.searchsorted(falling, wanted_N) - field_N * COUNT_LEVELS
        log_N = (level_N.float() + 0.5) * COUNT_LEVEL_STEP
        log_N.masked_fill_((ids_N < FIRST_VALUE_ID) | (level_N == 0), 0.0)
        total = torch.zeros(len(lengths), device=ids_N.device).index_add_(0, bag_N, log_N)
        log_CS = (total / lengths.clamp(min=1)).view(fields, stride)
        of_numeric_KB = self.scale[2].expand(self.numeric, size)
        log_FB = torch.cat([of_numeric_KB, log_CS[:, :size]])
        return ((log_FB - self.scale[0]) * self.scale[1]).T
