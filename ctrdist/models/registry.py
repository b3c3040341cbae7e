"""Which models there are. A line here, a file and a preset add one."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ctrdist.config.experiment import LossConfig
from ctrdist.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

# Strings, imported on use: the settings of a model (`--help`) must not wait for torch.
_CONFIGS = "ctrdist.models.configs"
_MODELS: dict[str, tuple[str, str, str]] = {
    "dlf": ("ctrdist.models.dlf", "DLF", "DLFConfig"),
    "tf4ctr": ("ctrdist.models.tf4ctr", "TF4CTR", "TF4CTRConfig"),
    "dual_attention": ("ctrdist.models.dual_attention", "DualAttention", "DualAttentionConfig"),
    "transformer": ("ctrdist.models.transformer", "Transformer", "TransformerConfig"),
}


def model_names() -> tuple[str, ...]:
    """Names of all models."""
    return tuple(_MODELS)


def config_class(name: str) -> type:
    """The config dataclass of a model; imports no torch.

    Raises:
        ConfigError: there is no such model.
    """
    return getattr(import_module(_CONFIGS), _entry(name)[2])


def build_tower(name: str, config: Any, num_fields: int) -> nn.Module:
    """A freshly initialised tower, on the current default device.

    Args:
        name: of the model.
        config: an instance of config_class(name).
        num_fields: F, tokens per row.

    Raises:
        ConfigError: there is no such model, or the config is another model's, or does not fit
            the data.
    """
    module, class_name, config_name = _entry(name)
    wanted = config_class(name)
    if not isinstance(config, wanted):
        raise ConfigError(
            f"model {name} is given a {type(config).__name__}; it wants a {config_name}."
        )
    return getattr(import_module(module), class_name)(config, num_fields)


def check_loss(loss: LossConfig, name: str) -> None:
    """Refuses a loss of two encoders for a model that has one.

    Args:
        loss: what training minimises.
        name: of the model.

    Raises:
        ConfigError: there is no such model, or it does not give the logits that the loss needs.
    """
    if loss.name != "twin_focus" or getattr(config_class(name), "two_encoders", False):
        return
    able = [n for n in _MODELS if getattr(config_class(n), "two_encoders", False)]
    raise ConfigError(
        f"loss.name = twin_focus needs the logits of two encoders, and model {name} has one. "
        f"Set loss.name to log, focal or r_ce, or train a model that has two: {', '.join(able)}."
    )


def _entry(name: str) -> tuple[str, str, str]:
    if name not in _MODELS:
        near = difflib.get_close_matches(name.lower(), _MODELS, n=1, cutoff=0.3)
        hint = f"the nearest is '{near[0]}'; " if near else ""
        raise ConfigError(f"there is no model '{name}'; {hint}choose one of: {', '.join(_MODELS)}.")
    return _MODELS[name]
