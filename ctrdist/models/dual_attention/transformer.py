"""A transformer over the field embeddings, to which DEA-R adds its two mechanisms.

x^(l+1) = Norm(y + FFN(y)), y = Norm(x + MultiHead(x)), x^(1) = E; logit = MLP(vec(x^(N+1))).
"""

# B batch, F fields, D embedding dim, H heads, E = D / H, R scores of all layers and heads

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ctrdist.batch import Output
from ctrdist.models.dual_attention.settings import TransformerConfig
from ctrdist.models.layers import Dropout, linear, mlp_of, short_attention


class Context(NamedTuple):
    """Inputs of an attention apart from the tokens."""

    pairs_BRFF: Tensor | None = None
    """(B, R, F, F) scores of pairs of ids, for all layers and heads."""
    frequency_BF: Tensor | None = None
    """(B, F) φ, standardised logarithm of the ids' counts in the training rows."""
    abundance_F: Tensor | None = None
    """(F,) information abundance of each field's table, divided by its maximum."""


class Transformer(nn.Module):
    """The tower; subclasses replace the attention."""

    parts: Mapping[str, tuple[str, ...]] = {
        "attention": ("layers.*.attention*",),
        "feed_forward": ("layers.*.feed_forward*",),
    }

    def __init__(
        self,
        config: TransformerConfig,
        num_fields: int,
        attention: Callable[[int], Attention] | None = None,
    ) -> None:
        """Builds the tower for F = num_fields.

        `attention` builds the attention of a layer from its index; plain attention if None.
        """
        super().__init__()
        self.groups = {"tokens": config.embedding_dim}
        make = attention or (lambda _: Attention(config))
        self.layers = nn.ModuleList(Layer(config, make(i)) for i in range(config.num_layers))
        self.head = mlp_of(config, num_fields * config.embedding_dim, config.hidden_dims, 1)

    def forward(self, emb: Mapping[str, Tensor]) -> Output:
        """emb["tokens"]: (B, F, D). Returns log-odds, without a sigmoid."""
        x_BFD, context = emb["tokens"], self.context(emb)
        for layer in self.layers:
            x_BFD = layer(x_BFD, context)
        return Output(logits_B=self.head(x_BFD.flatten(1)).squeeze(1).float())

    def context(self, emb: Mapping[str, Tensor]) -> Context:
        """Returns the inputs of the attention apart from the tokens."""
        return Context()

    def attention_mass(self, emb: Mapping[str, Tensor]) -> Tensor:
        """Returns (L, F, F) float32: the mean of each layer's A over rows and heads."""
        x_BFD, context, masses = emb["tokens"], self.context(emb), []
        for layer in self.layers:
            assert isinstance(layer, Layer)
            masses.append(layer.attention.weights(x_BFD, context).mean((0, 1)))
            x_BFD = layer(x_BFD, context)
        return torch.stack(masses)


class Layer(nn.Module):
    """Attention and feed-forward network, each added to its input and normalised."""

    def __init__(self, config: TransformerConfig, attention: Attention) -> None:
        super().__init__()
        width = config.embedding_dim
        self.attention = attention
        self.attention_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            linear(width, config.feed_forward_factor * width),
            nn.GELU(),
            linear(config.feed_forward_factor * width, width),
        )
        self.feed_forward_norm = nn.LayerNorm(width)
        self.dropout = Dropout(config.dropout)

    def forward(self, x_BFD: Tensor, context: Context) -> Tensor:
        """x_BFD: (B, F, D); gives the same size."""
        y_BFD = self.attention_norm(x_BFD + self.dropout(self.attention(x_BFD, context)))
        return self.feed_forward_norm(y_BFD + self.dropout(self.feed_forward(y_BFD)))


class Attention(nn.Module):
    """MultiHead(x) = [A_1 V_1 ‖ … ‖ A_H V_H] W_O + b_O, A_h = softmax(Q_h K_hᵀ / √E).

    Q, K and V have no bias: the softmax would ignore that of the keys, and that of the values would
    add to b_O.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.embedding_dim
        self.heads = config.attention_heads
        self.query = linear(width, width, bias=False)
        self.key = linear(width, width, bias=False)
        self.value = linear(width, width, bias=False)
        self.output = linear(width, width)

    def forward(self, x_BFD: Tensor, context: Context) -> Tensor:
        """x_BFD: (B, F, D); gives the same size."""
        query, key, value = (
            self._by_head(part, x_BFD) for part in (self.query, self.key, self.value)
        )
        attended_BHFE = self.attend(query, key, value, x_BFD, context)
        return self.output(attended_BHFE.transpose(1, 2).flatten(2))

    def weights(self, x_BFD: Tensor, context: Context) -> Tensor:
        """Returns A, (B, H, F, F) float32, of the tokens (B, F, D)."""
        query, key = (self._by_head(part, x_BFD) for part in (self.query, self.key))
        return self.weigh(query, key, x_BFD, context)

    def weigh(self, query_BHFE: Tensor, key_BHFE: Tensor, x_BFD: Tensor, _: Context) -> Tensor:
        """Returns A, (B, H, F, F) float32, of queries and keys (B, H, F, E)."""
        score_BHFF = query_BHFE @ key_BHFE.transpose(2, 3) * query_BHFE.shape[-1] ** -0.5
        return score_BHFF.float().softmax(-1)

    def attend(
        self, query_BHFE: Tensor, key_BHFE: Tensor, value_BHFE: Tensor, x_BFD: Tensor, _: Context
    ) -> Tensor:
        """Returns A V, (B, H, F, E), from queries, keys and values of this size."""
        return short_attention(query_BHFE, key_BHFE, value_BHFE)

    def _by_head(self, part: nn.Module, x_BFD: Tensor) -> Tensor:
        """Returns a projection of the tokens by head, (B, H, F, E)."""
        return part(x_BFD).unflatten(2, (self.heads, -1)).transpose(1, 2)
