"""DEA-R: a reconstruction of Dual Enhanced Attention (arXiv:2503.11233).

Only the paper's abstract could be obtained. It names two attentions that are fused: one that stores
pairs of ids instead of compressing them into an inner product, and one that filters out pairs of
little information abundance. All formulas are our own; they are numbered here:

(1) a_ij^k = h_k(i, id_i, j, id_j), e_ij^k = C^k[a_ij^k], g_ij = softmax_k(w_kᵀ e_ij^k +
    v_kᵀ (E_i ⊙ E_j)), B_ij^h = u_hᵀ Σ_k g_ij^k e_ij^k, A^combo = softmax_j(B): see
    :mod:`ctrdist.models.dual_attention.pairs`, which computes B for all layers at once
(2) S = Q Kᵀ / √E, A^0 = softmax_j(S), τ_i = sigmoid(wᵀ [x_i ‖ φ_i]) / F,
    M_ij = sigmoid((A^0_ij − τ_i) F / T), M_ii = 1, A^ca = rownorm(A^0 ⊙ M)
(3) A = G ⊙ A^combo + (1 − G) ⊙ A^ca, G_ij = sigmoid(MLP[B_ij ‖ S_ij]), or with G = λ_h, or
    A = rownorm(A^combo ⊙ A^ca)

A replaces the attention map in a transformer.
"""

# B batch, F fields, D embedding dim, H heads, E = D / H, R = layers · H scores

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctrdist.models import gpu_ops
from ctrdist.models.dual_attention.settings import DualAttentionConfig
from ctrdist.models.dual_attention.transformer import Attention, Context, Transformer
from ctrdist.models.layers import linear, short_softmax

_TINY = 1e-20
"""Lower bound of a row's sum, all of which may have underflown."""


class DualAttention(Transformer):
    """The tower of DEA-R; without both mechanisms it is exactly the transformer."""

    parts: Mapping[str, tuple[str, ...]] = {
        "scores": ("layers.*.attention.query.*", "layers.*.attention.key.*"),
        "filter": ("layers.*.attention.filter.*",),
        "fusion": ("layers.*.attention.fusion.*",),
        **Transformer.parts,
    }

    def __init__(self, config: DualAttentionConfig, num_fields: int) -> None:
        """Builds the tower for F = num_fields."""
        super().__init__(config, num_fields, lambda i: DualEnhanced(config, num_fields, i))
        self.pairs = config if config.combo else None
        self.frequency = config.has_threshold and config.frequency
        self.abundance_F: Tensor | None
        # 1 until ctrdist.training.observe.abundance measures it, after each epoch
        measured = config.filter == "information_abundance"
        self.register_buffer("abundance_F", torch.ones(num_fields) if measured else None)

    def context(self, emb: Mapping[str, Tensor]) -> Context:
        """Returns the inputs of the attention that `pairs` and `frequency` ask for."""
        pairs_BRFF = emb["pairs"] if self.pairs else None
        frequency_BF = emb["frequency"] if self.frequency else None
        return Context(pairs_BRFF, frequency_BF, self.abundance_F)


class DualEnhanced(Attention):
    """Attention with the map (3), from the pair scores of its layer."""

    def __init__(self, config: DualAttentionConfig, num_fields: int, index: int) -> None:
        super().__init__(config)
        heads = config.attention_heads
        self.own = slice(index * heads, (index + 1) * heads)
        self.filter = None if config.filter == "none" else CollapseFilter(config, num_fields)
        self.fusion = Fusion(config) if config.combo else None

    def attend(
        self,
        query_BHFE: Tensor,
        key_BHFE: Tensor,
        value_BHFE: Tensor,
        x_BFD: Tensor,
        context: Context,
    ) -> Tensor:
        """A V: (B, H, F, E) each; gives (B, H, F, E)."""
        if self.filter is None and self.fusion is None:
            return super().attend(query_BHFE, key_BHFE, value_BHFE, x_BFD, context)
        map_BHFF = self.weigh(query_BHFE, key_BHFE, x_BFD, context)
        return gpu_ops.product(map_BHFF.to(value_BHFE.dtype), value_BHFE)

    def weigh(
        self, query_BHFE: Tensor, key_BHFE: Tensor, x_BFD: Tensor, context: Context
    ) -> Tensor:
        """Returns A of (3), (B, H, F, F) float32, from queries and keys (B, H, F, E).

        With a gate per pair its rows do not sum to 1.
        """
        product_BHFF = gpu_ops.product(query_BHFE, key_BHFE.transpose(2, 3))
        score_BHFF = product_BHFF * query_BHFE.shape[-1] ** -0.5
        map_BHFF = short_softmax(score_BHFF.float())
        if self.filter is not None:
            map_BHFF = self.filter(map_BHFF, x_BFD, context)
        if self.fusion is not None:
            assert context.pairs_BRFF is not None
            map_BHFF = self.fusion(context.pairs_BRFF[:, self.own], score_BHFF, map_BHFF)
        return map_BHFF


class CollapseFilter(nn.Module):
    """A^ca of (2), and its variants.

    There is a threshold per head, w (H, D + 1) or, without φ, (H, D). A query always keeps itself:
    M_ii is 1. Below the threshold, `hard` scales by M in training and drops in evaluation; `soft`
    scales in both; `straight_through` drops in both and has the gradient of M;
    `information_abundance` is hard, with M_ij also multiplied by r_i r_j, where r_i = IA(table i) /
    min(rows i, D); `top_rho` keeps the ⌈ρ F⌉ largest of A^0_i, and those equal to the least of
    them.
    """

    def __init__(self, config: DualAttentionConfig, num_fields: int) -> None:
        super().__init__()
        self.kind = config.filter
        self.width = config.temperature / num_fields
        self.kept = min(num_fields, math.ceil(config.rho * num_fields))
        with_frequency = config.has_threshold and config.frequency
        inputs = config.embedding_dim + int(with_frequency)
        self.threshold = (
            linear(inputs, config.attention_heads, bias=False) if config.has_threshold else None
        )
        self.register_buffer("itself_FF", torch.eye(num_fields, dtype=torch.bool), persistent=False)
        self.itself_FF: Tensor

    def forward(self, map_BHFF: Tensor, x_BFD: Tensor, context: Context) -> Tensor:
        """map_BHFF: (B, H, F, F) float32, rows that sum to 1; x_BFD: tokens of the layer."""
        if self.threshold is None:
            least = map_BHFF.topk(self.kept, dim=-1).values[..., -1:]
            mask_BHFF = (map_BHFF >= least).to(map_BHFF.dtype)
        else:
            mask_BHFF = self._mask(map_BHFF - self._threshold(x_BFD, context.frequency_BF))
        if self.kind == "information_abundance":
            assert context.abundance_F is not None
            mask_BHFF = mask_BHFF * torch.outer(context.abundance_F, context.abundance_F)
        return _row_normalised(map_BHFF * mask_BHFF.masked_fill(self.itself_FF, 1.0))

    def _threshold(self, x_BFD: Tensor, frequency_BF: Tensor | None) -> Tensor:
        """Returns τ, (B, H, F, 1) float32."""
        assert self.threshold is not None
        if frequency_BF is not None:
            x_BFD = torch.cat([x_BFD, frequency_BF.unsqueeze(2).to(x_BFD.dtype)], dim=2)
        score_BFH = self.threshold(x_BFD).float()
        return score_BFH.sigmoid().transpose(1, 2).unsqueeze(3) / x_BFD.shape[1]

    def _mask(self, above: Tensor) -> Tensor:
        """Returns M from A^0 − τ, (B, H, F, F) each."""
        drops = self.kind == "straight_through" or not (self.training or self.kind == "soft")
        if not drops:
            return (above / self.width).sigmoid()
        hard = (above >= 0).to(above.dtype)
        if not self.training:
            return hard
        soft = (above / self.width).sigmoid()
        return soft + (hard - soft).detach()


class Fusion(nn.Module):
    """(3): one attention map from A^combo = softmax_j(B) and A^ca."""

    def __init__(self, config: DualAttentionConfig) -> None:
        super().__init__()
        self.kind = config.fusion
        if self.kind == "gated_balance":
            self.hidden = linear(2, config.fusion_dim)
            self.gate = linear(config.fusion_dim, 1)
        elif self.kind == "weighted_sum":
            self.balance_H = nn.Parameter(torch.zeros(config.attention_heads))

    def forward(self, pair_BHFF: Tensor, score_BHFF: Tensor, map_BHFF: Tensor) -> Tensor:
        """B, S and A^ca, (B, H, F, F) each; gives (B, H, F, F) float32."""
        combo_BHFF = short_softmax(pair_BHFF.float())
        if self.kind == "multiply":
            return _row_normalised(combo_BHFF * map_BHFF)
        if self.kind == "weighted_sum":
            share = self.balance_H.sigmoid().view(-1, 1, 1)
        else:
            share = self._gate(pair_BHFF.to(score_BHFF.dtype), score_BHFF).float().sigmoid()
        return map_BHFF + share * (combo_BHFF - map_BHFF)

    def _gate(self, pair_BHFF: Tensor, score_BHFF: Tensor) -> Tensor:
        """MLP[B ‖ S] of each pair, (B, H, F, F)."""
        if gpu_ops.uses_kernels(pair_BHFF) and torch.compiler.is_compiling():
            # maps of two numbers to four, and of four to one, leave a product's kernels idle
            weight_W2, weight_W = self.hidden.weight, self.gate.weight[0]
            of_pair = pair_BHFF.unsqueeze(-1) * weight_W2[:, 0]
            hidden = of_pair + score_BHFF.unsqueeze(-1) * weight_W2[:, 1] + self.hidden.bias
            return (functional.gelu(hidden) * weight_W).sum(-1) + self.gate.bias
        both = torch.stack([pair_BHFF, score_BHFF], dim=-1)
        return self.gate(functional.gelu(self.hidden(both))).squeeze(-1)


def _row_normalised(map_BHFF: Tensor) -> Tensor:
    return map_BHFF / map_BHFF.sum(-1, keepdim=True).clamp_min(_TINY)
