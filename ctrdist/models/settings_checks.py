"""The settings that all models share, and their checks. Imports no torch, as settings must not."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ctrdist.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Settings that every model has."""

    wide: bool = False
    """A wide part beside the tower: logistic regression on the same fields, trained alone before
    it. The model blends the two as far as valid shows that the tower gains."""


def require(condition: bool, config: Any, name: str, remedy: str) -> None:
    """Raises ConfigError for the value of a setting unless the condition holds.

    The settings' `label` names the model in the message, and `remedy` the allowed values, as in
    "give at least 1".
    """
    if not condition:
        value = getattr(config, name)
        value = list(value) if isinstance(value, tuple) else value
        raise ConfigError(f"{config.label}: {name} is {value}; {remedy}.")


def require_positive(config: Any, names: Sequence[str]) -> None:
    """Refuses settings below 1."""
    for name in names:
        require(getattr(config, name) >= 1, config, name, "give at least 1")


def require_dropout(config: Any) -> None:
    """Refuses a dropout outside [0, 1)."""
    require(0 <= config.dropout < 1, config, "dropout", "give at least 0 and less than 1")


def require_heads(config: Any) -> None:
    """Refuses attention heads into which the embedding cannot be divided."""
    dim, heads = config.embedding_dim, config.attention_heads
    if dim % heads:
        divisors = ", ".join(str(h) for h in range(1, dim + 1) if dim % h == 0)
        raise ConfigError(
            f"{config.label}: attention_heads {heads} does not divide embedding_dim {dim}; set "
            f"attention_heads to one of {divisors}, or change embedding_dim."
        )


def refuse_without_effect(config: Any, names: Sequence[str], cause: str, remedy: str) -> None:
    """Raises ConfigError for settings that differ from their default but are disabled.

    Such a run would pass for another experiment than the one that it is. `cause` is the setting
    that disables them, as in "form: code", and `remedy` what enables them, as in "set form: paper".
    """
    fields = type(config).__dataclass_fields__
    given = [name for name in names if getattr(config, name) != fields[name].default]
    if given:
        settings = ", ".join(f"{name}: {getattr(config, name)}" for name in given)
        raise ConfigError(
            f"{config.label}: {settings} has no effect with {cause}; leave {', '.join(given)} out, "
            f"or {remedy}."
        )
