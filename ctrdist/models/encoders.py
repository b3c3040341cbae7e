"""Encoders: a row's field embeddings in, a representation out, from which a head reads a logit."""

# B batch, F fields, D embedding dim, N = F · D, P pairs, M feature maps, E width of an encoder's
# output

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ctrdist.models.layers import linear, mlp_of

FIRST_ORDER = "linear"
"""Embedding group of width 1: the weight of each value in a linear model."""


class Encoder(nn.Module):
    """(B, F, D) embeddings, and (B, F) first-order weights if it reads them → (B, E)."""

    out_dim: int
    """E."""
    reads_first_order = False
    """It needs the group FIRST_ORDER."""

    def forward(self, emb_BFD: Tensor, first_BF: Tensor | None) -> Tensor:
        """emb_BFD: (B, F, D), first_BF: (B, F) or None; gives (B, E)."""
        raise NotImplementedError


class MLPEncoder(Encoder):
    """A multi-layer perceptron over the flattened embeddings, without an output layer."""

    def __init__(self, config: Any, in_dim: int, hidden_dims: Sequence[int]) -> None:
        super().__init__()
        self.out_dim = hidden_dims[-1]
        self.mlp = mlp_of(config, in_dim, hidden_dims)

    def forward(self, emb_BFD: Tensor, first_BF: Tensor | None) -> Tensor:
        """emb_BFD: (B, F, D); gives (B, E)."""
        return self.mlp(emb_BFD.flatten(1))


class LREncoder(Encoder):
    """Logistic regression: the sum of a row's first-order weights, with or without a bias."""

    out_dim = 1
    reads_first_order = True

    def __init__(self, *, bias: bool = False) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1)) if bias else None

    def forward(self, emb_BFD: Tensor, first_BF: Tensor | None) -> Tensor:
        """first_BF: (B, F); gives (B, 1)."""
        assert first_BF is not None
        sum_B1 = first_BF.sum(1, keepdim=True)
        return sum_B1 if self.bias is None else sum_B1 + self.bias


class FMEncoder(Encoder):
    """A factorisation machine: LR with bias + Σ_{i<j} ⟨e_i, e_j⟩ = LR + ½ Σ_d [(Σ e)² − Σ e²]."""

    out_dim = 1
    reads_first_order = True

    def __init__(self) -> None:
        super().__init__()
        self.first_order = LREncoder(bias=True)

    def forward(self, emb_BFD: Tensor, first_BF: Tensor | None) -> Tensor:
        """emb_BFD: (B, F, D), first_BF: (B, F); gives (B, 1)."""
        emb_BFD = emb_BFD.float()  # half precision would lose the difference of two large sums
        pairs_BD = emb_BFD.sum(1).square() - emb_BFD.square().sum(1)
        return self.first_order(emb_BFD, first_BF) + 0.5 * pairs_BD.sum(1, keepdim=True)


class CINEncoder(Encoder):
    """The compressed interaction network of xDeepFM: X^k_m = Σ_ij W^k_mij (X^{k−1}_i ⊙ X^0_j) + b.

    X^0 are the embeddings, and no layer has an activation. The maps of each layer are summed over
    D, and a linear layer reads all these sums.
    """

    def __init__(self, num_fields: int, maps: Sequence[int], out_dim: int) -> None:
        super().__init__()
        self.out_dim = out_dim
        inputs = [num_fields, *maps[:-1]]
        self.layers = nn.ModuleList(
            linear(count * num_fields, out) for count, out in zip(inputs, maps, strict=True)
        )
        self.output = linear(sum(maps), out_dim)

    def forward(self, emb_BFD: Tensor, first_BF: Tensor | None) -> Tensor:
        """emb_BFD: (B, F, D); gives (B, E)."""
        x0_BDF = emb_BFD.transpose(1, 2)
        x_BDM, sums = x0_BDF, []
        for layer in self.layers:
            pairs_BDP = (x_BDM.unsqueeze(3) * x0_BDF.unsqueeze(2)).flatten(2)
            x_BDM = layer(pairs_BDP)
            sums.append(x_BDM.sum(1))
        return self.output(torch.cat(sums, 1))


class CrossEncoder(Encoder):
    """The cross network of DCN: x_{l+1} = x_0 ⟨w_l, x_l⟩ + b_l + x_l, x_0 the flattened embeddings.

    Wang et al., 2017 (arXiv:1708.05123), (3).
    """

    def __init__(self, in_dim: int, num_layers: int) -> None:
        super().__init__()
        self.out_dim = in_dim
        self.layers = nn.ModuleList(linear(in_dim, 1, bias=False) for _ in range(num_layers))
        self.bias_LN = nn.Parameter(torch.zeros(num_layers, in_dim))

    def forward(self, emb_BFD: Tensor, first_BF: Tensor | None) -> Tensor:
        """emb_BFD: (B, F, D); gives (B, N)."""
        x0_BN = x_BN = emb_BFD.flatten(1)
        for layer, bias_N in zip(self.layers, self.bias_LN, strict=True):
            x_BN = x0_BN * layer(x_BN) + bias_N + x_BN
        return x_BN
