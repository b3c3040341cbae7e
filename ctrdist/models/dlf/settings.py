"""Settings of DLF. Imports no torch, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ctrdist.errors import ConfigError
from ctrdist.models.settings_checks import (
    ModelConfig,
    refuse_without_effect,
    require,
    require_dropout,
    require_heads,
    require_positive,
)

_PAPER_SWITCHES = (
    "low_order_block",
    "fusion",
    "attention_layers",
    "attention_heads",
    "fusion_output",
    "gate",
)


@dataclass(frozen=True, kw_only=True)
class DLFConfig(ModelConfig):
    """Dynamic Low-Order-Aware Fusion (Wang et al., SIGIR 2025, arXiv:2505.19182).

    The rows of the paper's Table 3, in the paper form (jobs/configs/studies/*_dlf_ablation.yaml):

    - "w/o gate" is `gate: plain`: the residual stays, without a gate.
    - "w/o RLI" is `low_order_block: false` with `gate: plain`: the paper counts the control of the
      residual as part of RLI, and discusses this row as one without a gate.
    - "w/o NAF" is `fusion: concat`. The paper says that the streams are then fused in the last
      layer only; here their tokens are concatenated in each layer.
    """

    label: ClassVar[str] = "DLF"

    form: Literal["paper", "code"] = "paper"
    """paper: equations (5)-(16), with attention fusion and gate; code: what the authors' repository
    computes. The code form has none of the switches marked (paper) and refuses all their values but
    the defaults, which have no effect there."""
    embedding_dim: int = 16
    """D, width of field embeddings and tokens."""
    num_layers: int = 3
    """L, stacked interaction layers, 1 to 12; the paper tests 2 to 12, best 8."""
    tokens_per_block: int = 16
    """m, output tokens of each block."""
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
    fusion: Literal["naf", "attention_pool", "gate_pool", "mlp", "concat"] = "naf"
    """(paper) Fusion of the blocks' outputs, as compared in Figure 3. naf: (10)-(14). The paper
    only names the others, so they are reconstructed: attention_pool is naf without attention within
    a block; gate_pool weighs the blocks by a softmax for each token and dimension; mlp is a network
    with one hidden layer over all tokens; concat leaves the blocks' outputs as they are."""
    attention_layers: int = 2
    """(paper) Rounds of naf or attention_pool, each on the output of the one before, 1 to 4. naf
    also takes 0, which is the same as concat. No effect on other fusions."""
    attention_heads: int = 2
    """(paper) Heads of each attention; must divide embedding_dim."""
    fusion_output: Literal["concat", "sum"] = "concat"
    """(paper) Combination of fused tokens and the blocks' own tokens in (15): concat gives 6m
    tokens, sum 3m (4m and 2m without the low-order block). With fusion: concat there are 3m (2m)
    and nothing to combine."""
    gate: Literal["max", "sigmoid", "none", "plain"] = "max"
    """(paper) Residual of (9): max(ε, W E) ⊙ E, sigmoid(W E) ⊙ E, no residual at all (none), or E
    without a gate (plain)."""

    def __post_init__(self) -> None:
        require_positive(
            self, ("embedding_dim", "tokens_per_block", "rank", "hidden_dim", "attention_heads")
        )
        for name, least, most in (("num_layers", 1, 12), ("attention_layers", 0, 4)):
            allowed = least <= getattr(self, name) <= most
            require(allowed, self, name, f"give {least} to {most}")
        require_dropout(self)
        if self.form == "code":
            refuse_without_effect(self, _PAPER_SWITCHES, "form: code", "set form: paper")
        else:
            self._check_fusion()

    @property
    def fusion_rounds(self) -> int:
        """Rounds of fusion, each on the output of the one before; 0 leaves the blocks' outputs."""
        if self.form == "code" or self.fusion == "concat":
            return 0
        return self.attention_layers if self.fusion in ("naf", "attention_pool") else 1

    @property
    def has_attention(self) -> bool:
        """The fusion computes some attention."""
        return self.fusion in ("naf", "attention_pool") and self.fusion_rounds > 0

    def _check_fusion(self) -> None:
        if self.fusion == "attention_pool" and self.attention_layers == 0:
            raise ConfigError(
                "DLF: fusion: attention_pool computes nothing with attention_layers: 0; "
                "set attention_layers to 1 to 4, or fusion: concat."
            )
        if self.fusion_rounds == 0 and self.fusion_output == "sum":
            cause = "attention_layers: 0" if self.fusion == "naf" else "fusion: concat"
            raise ConfigError(
                f"DLF: fusion_output: sum has no fused tokens to add with {cause}; "
                "leave fusion_output out, or choose a fusion that computes some: "
                "naf (with attention_layers 1 to 4), attention_pool, gate_pool or mlp."
            )
        if self.has_attention:
            require_heads(self)
