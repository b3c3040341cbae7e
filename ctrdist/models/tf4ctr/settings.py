"""Settings of TF4CTR. Imports no torch, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ctrdist.errors import ConfigError
from ctrdist.models.settings_checks import (
    ModelConfig,
    refuse_without_effect,
    require,
    require_dropout,
    require_positive,
)

_DEPENDENT = (
    ("simple_hidden_dims", "simple", ("mlp",)),
    ("cin_maps", "simple", ("cin",)),
    ("cin_out_dim", "simple", ("cin",)),
    ("cross_layers", "simple", ("cross",)),
    ("selection_sizes", "selection", ("gm", "mmoe")),
    ("vote_temperature", "fusion", ("vf",)),
)
"""(setting, the setting that it depends on, values of that under which it has an effect)."""


@dataclass(frozen=True, kw_only=True)
class TF4CTRConfig(ModelConfig):
    """Twin Focus Framework for CTR (Li et al., arXiv:2405.03167v4): two encoders of each row.

    The paper's model has an MLP for each encoder; `simple` fm, lr, cin and cross are its DeepFM,
    Wide&Deep, xDeepFM and DCN. Its loss is `loss.name: twin_focus`; TF loss alone, on two MLPs over
    one embedding (its DualMLP), is `selection: share` with `fusion: wsf`.
    """

    label: ClassVar[str] = "TF4CTR"
    two_encoders: ClassVar[bool] = True
    """Output.aux has the logits of both encoders, which some losses read."""

    selection: Literal["ser", "gm", "mmoe", "share"] = "ser"
    """Selection of each encoder's embeddings: tables of its own, of half the width for the simple
    one (ser); a gate (gm); a mixture of two experts, with a gate for each encoder (mmoe); or both
    encoders read the same (share)."""
    fusion: Literal["wsf", "vf", "cf", "moef", "sum"] = "wsf"
    """Combination of the two encoders to one logit: weighted sum, vote, one layer over both
    representations, mixture of two such layers, or plain sum."""
    simple: Literal["mlp", "fm", "lr", "cin", "cross"] = "mlp"
    """The simple encoder. fm, lr and cin add tables of width 1. lr reads nothing else and therefore
    needs selection: share."""
    embedding_dim: int = 16
    """d, width of field embeddings."""
    simple_hidden_dims: tuple[int, ...] = (400, 400)
    """Widths of the simple encoder's layers; only with simple: mlp."""
    complex_hidden_dims: tuple[int, ...] = (400, 400, 400)
    """Widths of the complex encoder's layers, an MLP."""
    cin_maps: tuple[int, ...] = (64, 64)
    """Feature maps of each layer of the compressed interaction network; only with simple: cin."""
    cin_out_dim: int = 400
    """Width of its output; only with simple: cin."""
    cross_layers: int = 3
    """Layers of the cross network; only with simple: cross."""
    selection_sizes: Literal["paper", "code"] = "paper"
    """Hidden layers of gates and experts, only with selection: gm or mmoe. With n fields, paper:
    gates [400, 100] and experts [400, 200]; code: gates [nd/4] and experts [nd/2], with
    normalisation and ReLU at the output as well."""
    vote_temperature: float = 0.8
    """τ of the vote; only with fusion: vf."""
    dropout: float = 0.2
    """Probability, in the hidden layers of encoders, gates and experts."""
    batch_norm: bool = True
    """Batch normalisation in these layers."""

    def __post_init__(self) -> None:
        least, reason = (
            (2, ", for selection: ser halves it") if self.selection == "ser" else (1, "")
        )
        require(
            self.embedding_dim >= least, self, "embedding_dim", f"give at least {least}{reason}"
        )
        for name in ("simple_hidden_dims", "complex_hidden_dims", "cin_maps"):
            widths = getattr(self, name)
            remedy = "give the width of at least one layer, each at least 1"
            require(bool(widths) and min(widths) >= 1, self, name, remedy)
        require_positive(self, ("cin_out_dim", "cross_layers"))
        require_dropout(self)
        require(
            0 < self.vote_temperature < float("inf"),
            self,
            "vote_temperature",
            "give a number above 0",
        )
        if self.simple == "lr" and self.selection != "share":
            raise ConfigError(
                f"TF4CTR: selection {self.selection} cannot be set with simple: lr, which reads "
                "tables of its own and no embeddings that could be selected; set selection: share, "
                "or another simple encoder."
            )
        for name, key, values in _DEPENDENT:
            if getattr(self, key) not in values:
                cause = f"{key}: {getattr(self, key)}"
                refuse_without_effect(self, (name,), cause, f"set {key}: {' or '.join(values)}")
