"""Which models there are. A line here, a file and a preset add one."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ctrdist.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

# Strings, imported on use: the settings of a model (`--help`) must not wait for torch.
_CONFIGS = "ctrdist.models.configs"
_MODELS: dict[str, tuple[str, str, str]] = {
    "dlf": ("ctrdist.models.dlf", "DLF", "DLFConfig"),
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


def _entry(name: str) -> tuple[str, str, str]:
    if name not in _MODELS:
        near = difflib.get_close_matches(name.lower(), _MODELS, n=1, cutoff=0.3)
        hint = f"the nearest is '{near[0]}'; " if near else ""
        raise ConfigError(f"there is no model '{name}'; {hint}choose one of: {', '.join(_MODELS)}.")
    return _MODELS[name]
