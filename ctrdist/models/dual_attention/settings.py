"""Settings of DEA-R and of the transformer that it extends. Imports no torch, for `--help`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ctrdist.models.settings_checks import (
    ModelConfig,
    refuse_without_effect,
    require,
    require_dropout,
    require_heads,
    require_positive,
)


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(ModelConfig):
    """A plain transformer over the field embeddings: the baseline of DEA-R."""

    label: ClassVar[str] = "transformer"

    embedding_dim: int = 16
    """D, width of field embeddings and tokens."""
    num_layers: int = 2
    """N, transformer layers, each an attention and a feed-forward network."""
    attention_heads: int = 2
    """H, heads of each attention; must divide embedding_dim."""
    feed_forward_factor: int = 4
    """Hidden width of the feed-forward networks over embedding_dim."""
    hidden_dims: tuple[int, ...] = (400, 400)
    """Hidden widths of the head over all tokens; empty: one linear map."""
    dropout: float = 0.0
    """Probability, on the output of each attention and feed-forward network, and in the head."""
    batch_norm: bool = True
    """Batch normalisation in the head."""

    def __post_init__(self) -> None:
        require_positive(
            self, ("embedding_dim", "num_layers", "attention_heads", "feed_forward_factor")
        )
        require(all(w >= 1 for w in self.hidden_dims), self, "hidden_dims", "give widths from 1")
        require_dropout(self)
        require_heads(self)


@dataclass(frozen=True, kw_only=True)
class DualAttentionConfig(TransformerConfig):
    """DEA-R: a reconstruction of Dual Enhanced Attention (Wen et al., 2025, arXiv:2503.11233).

    The method section of the paper could not be obtained, so all formulas and sizes are our own,
    made to fit its abstract. Results are those of DEA-R, never of the authors' model. Ablations:
    `combo: false` and `filter: none` leave one of the two mechanisms out; both together give
    exactly the plain transformer.
    """

    label: ClassVar[str] = "dual_attention (DEA-R)"

    combo: bool = True
    """Combo-ID attention: scores read from codebooks at hashed pairs of ids. It pairs the
    single-valued categorical fields: numeric fields have no id (preprocess with --numeric_as bucket
    or both to pair them), multi-valued fields have several."""
    codebooks: int = 2
    """K, codebooks, each with its own hash function; a learned gate weighs them. The settings of
    codebooks have no effect without combo."""
    codebook_rows: int = 100_000
    """s, rows of each codebook. Codebooks are tables named codebook/0 and so on: sharded, saved and
    updated like those of the fields."""
    codebook_dim: int = 16
    """d_c, width of the codebooks; a multiple of 4."""
    codebook_init_std: float = 0.01
    """Codebooks start as N(0, std²)."""
    shuffle_pairs: bool = False
    """A control: the hash also takes the row's index, so that a pair of ids has another codeword in
    each row. The capacity is the same, but nothing can be memorised about pairs."""
    recompute_lookups: bool = False
    """Look the codebooks up again in backward instead of keeping their rows since forward: memory
    for the rows of one codebook instead of K, and twice the lookups."""
    filter: Literal[
        "hard", "soft", "straight_through", "information_abundance", "top_rho", "none"
    ] = "hard"
    """Collapse-avoiding attention: treatment of attention below a learned threshold of the query.
    hard: scaled down softly in training, dropped in evaluation; soft: scaled in both;
    straight_through: dropped in both, with the soft gradient; information_abundance: hard, and
    scaled by the information abundance of both fields' tables, measured after each epoch; top_rho:
    no threshold, only the share rho of the keys stays; none: plain attention."""
    temperature: float = 0.05
    """T of the soft threshold, in units of 1 / number of fields. No effect with top_rho and
    none."""
    frequency: bool = True
    """The threshold also reads the count of the field's id in the training rows; the data set
    must have its vocabulary/ folder. No effect with top_rho and none."""
    rho: float = 0.5
    """Share of the fields that top_rho keeps, rounded up."""
    fusion: Literal["gated_balance", "weighted_sum", "multiply"] = "gated_balance"
    """Combination of the two attentions: a learned gate per pair, one learned weight per head, or
    their product, normalised. No effect without combo."""
    fusion_dim: int = 4
    """Hidden width of the gate network of gated_balance."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, ("codebooks", "codebook_rows", "fusion_dim"))
        require(
            self.codebook_rows < 2**31,
            self,
            "codebook_rows",
            "give less than 2^31, or more codebooks",
        )
        require(
            self.codebook_dim >= 4 and self.codebook_dim % 4 == 0,
            self,
            "codebook_dim",
            "give a multiple of 4, the unit in which the tables' kernels read",
        )
        for name in ("codebook_init_std", "temperature"):
            require(getattr(self, name) > 0, self, name, "give more than 0")
        require(0 < self.rho <= 1, self, "rho", "give more than 0 and at most 1")
        # Sizes of a disabled mechanism are allowed: an ablation leaves the rest of a preset as it
        # is. The settings below would pass for another experiment than the one that runs.
        if not self.combo:
            names = ("shuffle_pairs", "recompute_lookups")
            refuse_without_effect(self, names, "combo: false", "change combo")
        if self.filter != "top_rho":
            refuse_without_effect(self, ("rho",), f"filter: {self.filter}", "change filter")

    @property
    def pair_scores(self) -> int:
        """R, numbers that are read from the codewords of a pair: one per layer and head."""
        return self.num_layers * self.attention_heads

    @property
    def has_threshold(self) -> bool:
        """The filter compares attention with a learned threshold."""
        return self.filter not in ("top_rho", "none")
