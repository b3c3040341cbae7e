"""Settings of the models. Apart from the models, and free of torch, so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class DLFConfig:
    """Dynamic Low-Order-Aware Fusion (Wang et al., SIGIR 2025, arXiv:2505.19182)."""

    form: Literal["paper", "code"] = "paper"
    """paper: equations (5)-(16), with attention fusion and gate; code: what the authors' repository computes."""
    embedding_dim: int = 16
    """D, width of field embeddings and tokens."""
    num_layers: int = 3
    """L, stacked interaction layers."""
    tokens_per_block: int = 16
    """m, tokens that each block gives."""
    rank: int = 24
    """k, columns of W in the factorisation-machine blocks."""
    hidden_dim: int = 512
    """Width of the hidden layer in the factorisation-machine blocks and in the code form's head."""
    dropout: float = 0.0
    """Probability, in the hidden layers."""
    low_order_block: bool = True
    """The block that interacts with the field embeddings (5); off gives the paper's 'w/o RLI'."""
    attention_fusion: bool = True
    """Network-aware attention fusion, (10)-(14); off gives 'w/o NAF'. The code form has none."""
    attention_layers: int = 2
    """How often attention fusion is repeated on its own output."""
    attention_heads: int = 2
    """Heads of each attention; must divide embedding_dim."""
    fusion_output: Literal["concat", "sum"] = "concat"
    """(15): concat gives 6m tokens, sum adds attention to its input: 3m tokens."""
    gate: Literal["max", "sigmoid", "none", "plain"] = "max"
    """Residual of (9): max(ε, W E) ⊙ E, sigmoid(W E) ⊙ E, no residual, or plain E."""
