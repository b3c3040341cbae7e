"""L2 by occurrence: λ / n of the looked-up vectors, where n training rows have the id."""

# B rows of this worker, F fields, K numeric and C categorical, D dim of a group

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional


def penalise(looked_up: Iterable[Tensor], inverse_BC: Tensor, strength: float) -> None:
    """Adds strength · v / n to the gradients of looked-up vectors v, as their backward pass begins.

    A row is penalised as often as it occurs: by (λ/2)·‖v‖² an epoch, so a rare id is held as firmly
    as a frequent one. No table is swept, so the cost does not depend on the vocabularies.

    Args:
        looked_up: (B, F, D) of each embedding group, numeric fields first, which are not penalised.
        inverse_BC: 1/n, see :class:`ctrdist.models.id_counts.InverseCounts`.
        strength: λ, over the rows of the step that the loss is a mean of.
    """
    for emb_BFD in looked_up:
        if not emb_BFD.requires_grad:
            continue
        numeric = emb_BFD.shape[1] - inverse_BC.shape[1]
        factor_BF1 = functional.pad(strength * inverse_BC, (numeric, 0)).unsqueeze(2)

        def add(grad: Tensor, factor: Tensor = factor_BF1, emb: Tensor = emb_BFD) -> Tensor:
            return torch.addcmul(grad, factor.to(grad.dtype), emb.detach().to(grad.dtype))

        emb_BFD.register_hook(add)
