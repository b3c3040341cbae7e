"""The table of losses, and their settings. Imports no torch, so that `--help` is quick."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from ctrdist.errors import ConfigError


class Loss(NamedTuple):
    """All that is known of a loss."""

    function: str
    """module:function in ctrdist.losses, called as function(config, output, label_B, weight_B)."""
    two_encoders: bool = False
    """It reads the logits of two encoders, which only some models have."""


LOSSES = {
    "log": Loss("objective:log"),
    "focal": Loss("objective:focal"),
    "r_ce": Loss("objective:r_ce"),
    "twin_focus": Loss("objective:twin_focus", two_encoders=True),
}
LossName: TypeAlias = Literal[tuple(LOSSES)]  # type: ignore[valid-type]


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The loss that training minimises. Evaluation reports the log loss in any case."""

    name: LossName = "log"
    """With p the probability given to a row's label: −ln p (log), −(1−p)^γ ln p (focal) or
    −p^γ ln p with p^γ held constant (r_ce). For models with two encoders, twin_focus adds to log
    −α(c+p)^γ ln p of the simple encoder and −(1−α)(2−c−p)^γ ln p of the complex encoder."""
    gamma: float = 1.0
    """γ; 0 leaves plain cross entropies. No effect on log."""
    alpha: float = 0.25
    """α of twin_focus, from 0 to 1."""
    c: float = 0.7
    """c of twin_focus, from 0 to 1; from γ·exp(−1−1/γ) on no row is pushed away from its label."""

    def __post_init__(self) -> None:
        if not 0 <= self.gamma < float("inf"):
            raise ConfigError(f"loss.gamma is {self.gamma}; give a number of at least 0.")
        for name in ("alpha", "c"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"loss.{name} is {getattr(self, name)}; give one from 0 to 1.")
