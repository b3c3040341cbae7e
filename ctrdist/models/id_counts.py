"""Training counts of ids, in levels.

Ids are in the order of falling counts, so ln(1 + count) falls in steps along a vocabulary. Stored
are the ids at which it falls below each of Q levels: kilobytes for a vocabulary of any size, equal
on all workers. A table of counts would take as much memory as a column of the field's embedding
table, on each worker.
"""

# B batch, S rows of the padded lookup, C categorical fields, N ids

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ctrdist.schema import COUNT_LEVEL_STEP, COUNT_LEVELS, FIRST_VALUE_ID, UNKNOWN_ID

_FIELD = 2**33
"""More than any id: the distance of two fields on one axis."""


class InverseCounts(nn.Module):
    """1 / n of looked-up ids, which n training rows have."""

    def __init__(self, ends: Sequence[Sequence[int]], unknown: Sequence[float]) -> None:
        """Takes the levels and the counts of unknown values, by field.

        See :class:`ctrdist.data.counts.Counts`.
        """
        super().__init__()
        self.register_buffer("ends_CQ", torch.tensor(ends, dtype=torch.int64))
        self.register_buffer(
            "unknown_C", torch.tensor(unknown, dtype=torch.float32).clamp(min=1.0).log1p()
        )
        self.ends_CQ: Tensor
        self.unknown_C: Tensor

    @torch.no_grad()
    def forward(self, sparse: KeyedJaggedTensor, size: int) -> Tensor:
        """(B, C) float32 for the first B = size rows: the mean over the ids of a field, 0 for none.

        n is exact within 7 %, and at least 1.
        """
        log_N = log_counts(self.ends_CQ, sparse)
        unknown_N = self.unknown_C.repeat_interleave(
            torch.tensor(sparse.length_per_key(), device=log_N.device), output_size=len(log_N)
        )
        log_N = torch.where(sparse.values() == UNKNOWN_ID, unknown_N, log_N)
        return mean_over_ids(sparse, 1 / torch.expm1(log_N).clamp(min=1.0))[:, :size].T


def log_counts(ends_CQ: Tensor, sparse: KeyedJaggedTensor) -> Tensor:
    """(N,) ln(1 + count) of ids: the middle of its level; 0 for ids without a count.

    Args:
        ends_CQ: (C, Q) int64, by field and level q the first id whose ln(1 + count) is less than
            (q + 1) · COUNT_LEVEL_STEP.
        sparse: the ids of the C fields.
    """
    fields, ids_N = len(ends_CQ), sparse.values().long()
    counts = torch.tensor(sparse.length_per_key(), device=ids_N.device)
    field_N = torch.arange(fields, device=ids_N.device).repeat_interleave(
        counts, output_size=len(ids_N)
    )
    # the levels of all fields on one axis, one field after the other
    begin_C = torch.arange(fields, device=ids_N.device) * _FIELD
    falling = (begin_C.unsqueeze(1) + (_FIELD - 1) - ends_CQ).flatten()
    wanted_N = field_N * _FIELD + (_FIELD - 1) - ids_N
    level_N = torch.searchsorted(falling, wanted_N) - field_N * COUNT_LEVELS
    log_N = (level_N.float() + 0.5) * COUNT_LEVEL_STEP
    return log_N.masked_fill_((ids_N < FIRST_VALUE_ID) | (level_N == 0), 0.0)


def mean_over_ids(sparse: KeyedJaggedTensor, value_N: Tensor) -> Tensor:
    """(C, S) mean of the (N,) values of the ids that each row has in each field; 0 for none."""
    lengths, fields = sparse.lengths().long(), len(sparse.keys())
    bag_N = torch.repeat_interleave(lengths, output_size=len(value_N))
    total = torch.zeros(len(lengths), device=value_N.device).index_add_(0, bag_N, value_N)
    return (total / lengths.clamp(min=1)).view(fields, sparse.stride())
