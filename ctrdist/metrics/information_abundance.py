"""Information abundance of a table (arXiv:2310.04400): the number of directions its rows span.

IA(E) = Σ_k σ_k / max_k σ_k with the singular values σ of E (V, D). It is 1 if all rows lie on one
line, and min(V, D) if all directions are equal. σ_k² are the eigenvalues of EᵀE, which is small for
a table of any length. EᵀE is a sum over rows, so shards compute parts of it.
"""

# V rows of a table or of a part of it, D columns

import torch
from torch import Tensor

from ctrdist.schema import PADDING_ID

_BLOCK_ROWS = 65536
"""Rows that are converted to float64 at a time."""


def gram_matrix(table_VD: Tensor, first_row: int = 0, *, padding: bool = True) -> Tensor:
    """Returns (D, D) float64, EᵀE of some rows; those of several parts add up.

    Args:
        table_VD: the rows, of any float type.
        first_row: index of the first of them in its table.
        padding: whether the table has a padding row, which does not count.
    """
    if padding and first_row == PADDING_ID:
        table_VD = table_VD[1:]
    width = table_VD.shape[1]
    total_DD = torch.zeros(width, width, dtype=torch.float64, device=table_VD.device)
    for block in table_VD.detach().split(_BLOCK_ROWS):
        rows = block.double()
        total_DD.addmm_(rows.T, rows)
    return total_DD


def information_abundance(gram_DD: Tensor) -> float:
    """Returns Σσ / max σ of a (D, D) float64 EᵀE, see :func:`gram_matrix`; 0 for a table of zeros.

    Singular values below 1e-8 of the largest are rounding errors: their squares are smaller than
    the last digit of EᵀE.
    """
    sigma = torch.linalg.eigvalsh(gram_DD).clamp(min=0).sqrt()
    largest = float(sigma[-1])
    return float(sigma.sum()) / largest if largest > 0 else 0.0
