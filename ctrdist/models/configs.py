"""Settings of the models: apart from the models and free of torch, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ctrdist.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DLFConfig:
    """Dynamic Low-Order-Aware Fusion (Wang et al., SIGIR 2025, arXiv:2505.19182).

    The paper's ablations, in the paper form: `gate: plain` is "w/o gate" (the residual stays,
    ungated), `low_order_block: false` is "w/o RLI", `attention_fusion: false` is "w/o NAF" and the
    last two together are "w/o RLI + NAF". The paper says of "w/o NAF" that fusion happens in the
    last layer only; here the outputs of the blocks are then concatenated in each layer.
    """

    form: Literal["paper", "code"] = "paper"
    """paper: equations (5)-(16), with attention fusion and gate; code: what the authors' repository
    computes. The code form has none of the switches marked (paper): it refuses all their values but
    the defaults, which have no effect there."""
    embedding_dim: int = 16
    """D, width of field embeddings and tokens."""
    num_layers: int = 3
    """L, stacked interaction layers; the paper tests up to 12, best 8."""
    tokens_per_block: int = 16
    """m, tokens that each block gives."""
    rank: int = 24
    """k, columns of W in the factorisation-machine blocks."""
    hidden_dim: int = 512
    """Width of the hidden layer in the factorisation-machine blocks and in the code form's head."""
    dropout: float = 0.0
    """Probability, in the hidden layers."""
    batch_norm: bool = True
    """Batch normalisation in the hidden layers: always on in the authors' code, not mentioned in
    the paper."""
    low_order_block: bool = True
    """(paper) The block that interacts with the field embeddings (5)."""
    attention_fusion: bool = True
    """(paper) Network-aware attention fusion (10)-(14); off passes on the blocks' outputs."""
    attention_layers: int = 2
    """(paper) How often attention fusion is repeated on its own output; 0 is the same as
    attention_fusion: false."""
    attention_heads: int = 2
    """(paper) Heads of each attention; must divide embedding_dim."""
    fusion_output: Literal["concat", "sum"] = "concat"
    """(paper) How fused tokens join the blocks' own in (15): concat gives 6m tokens, sum 3m (4m and
    2m without the low-order block). No effect without attention."""
    gate: Literal["max", "sigmoid", "none", "plain"] = "max"
    """(paper) Residual of (9): max(ε, W E) ⊙ E, sigmoid(W E) ⊙ E, no residual at all (none), or E
    without a gate (plain)."""

    def __post_init__(self) -> None:
        for name in (
            "embedding_dim",
            "num_layers",
            "tokens_per_block",
            "rank",
            "hidden_dim",
            "attention_heads",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"DLF: {name} is {getattr(self, name)}; give at least 1.")
        if self.attention_layers < 0:
            raise ConfigError(
                f"DLF: attention_layers is {self.attention_layers}; give 1 or more, "
                "or 0 for no attention fusion."
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"DLF: dropout is {self.dropout}; give at least 0 and less than 1.")
        if self.form == "code":
            self._refuse_paper_switches()
        elif self.has_attention and self.embedding_dim % self.attention_heads:
            divisors = [
                str(h) for h in range(1, self.embedding_dim + 1) if self.embedding_dim % h == 0
            ]
            raise ConfigError(
                f"DLF: attention_heads {self.attention_heads} does not divide embedding_dim "
                f"{self.embedding_dim}; set attention_heads to one of {', '.join(divisors)}, "
                "or change embedding_dim."
            )

    @property
    def has_attention(self) -> bool:
        """Whether any attention fusion is computed."""
        return self.form == "paper" and self.attention_fusion and self.attention_layers > 0

    def _refuse_paper_switches(self) -> None:
        names = (
            "low_order_block",
            "attention_fusion",
            "attention_layers",
            "attention_heads",
            "fusion_output",
            "gate",
        )
        fields = type(self).__dataclass_fields__
        given = [name for name in names if getattr(self, name) != fields[name].default]
        if given:
            settings = ", ".join(f"{name}: {getattr(self, name)}" for name in given)
            raise ConfigError(
                f"DLF: {settings} cannot be set with form: code, which has no such part; "
                f"leave {', '.join(given)} out, or set form: paper."
            )
