"""Addresses of pairs of ids in codebooks: K independent 64-bit hashes of whole batches.

Signed integers wrap around like unsigned ones, so all devices give the same addresses.
"""

# B batch, C paired fields, P = C (C − 1) / 2 pairs of them

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
"""2^64 / golden ratio: odd, with irregular bits."""
_FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
"""Constants of the finaliser of SplitMix64 (Stafford's variant 13), in which each bit of the input
changes each bit of the output with a probability near one half."""


def pair_addresses(
    ids_BC: Tensor, left_P: Tensor, right_P: Tensor, rows: int, salt: int, row_B: Tensor | None
) -> Tensor:
    """(B, P) int32 in [0, rows): h_salt(field i, id_i, field j, id_j) for each pair i < j.

    At most three (B, P) tensors of int64 exist at a time.

    Args:
        ids_BC: (B, C) ids.
        left_P: i of each pair, an index of a column.
        right_P: j of each pair.
        rows: rows of the codebook, less than 2^31.
        salt: index of the hash function.
        row_B: index of each row in its split, to hash it as well; None to hash ids only.
    """
    columns = torch.arange(ids_BC.shape[1], device=ids_BC.device)
    # field and id side by side in 64 bits: mixing keeps different ones different
    own_BC = _mix(ids_BC.long() + (columns << 32) + _signed((salt + 1) * _GOLDEN))
    hash_BP = own_BC.index_select(1, right_P).mul_(_signed(_GOLDEN))
    hash_BP += own_BC.index_select(1, left_P)
    if row_B is not None:
        hash_BP += _mix(row_B.long() * _signed(_GOLDEN)).unsqueeze(1)
    # the upper 31 bits as a fraction of 2^31, times the rows: no division and almost no bias
    address_BP = _shifted(_mix(hash_BP), 33).mul_(rows)
    return _shifted(address_BP, 31).int()


def _mix(x: Tensor) -> Tensor:
    """Applies a bijection of 64-bit numbers, in place."""
    for shift, factor in zip((30, 27), _FACTORS, strict=True):
        x ^= _shifted(x, shift)
        x *= _signed(factor)
    x ^= _shifted(x, 31)
    return x


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Shifts an unsigned number to the right."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _signed(number: int) -> int:
    """Returns the signed number with the same 64 bits."""
    number &= 2**64 - 1
    return number - 2**64 if number >= 2**63 else number
