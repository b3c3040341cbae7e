"""The table of models. A model is a folder with its settings and its tower, and one line here."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, NamedTuple

from ctrdist.config.experiment import Experiment, experiment_of
from ctrdist.config.losses import LOSSES, LossConfig
from ctrdist.config.parse import from_dict
from ctrdist.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn


class _Model(NamedTuple):
    """Import paths, relative to ctrdist.models: `--help` reads settings and must not load torch."""

    settings: str
    """module:class of the settings, which import no torch."""
    tower: str
    """module:class of the tower, built as class(settings, num_fields)."""


_MODELS = {
    "dlf": _Model("dlf.settings:DLFConfig", "dlf.tower:DLF"),
    "tf4ctr": _Model("tf4ctr.settings:TF4CTRConfig", "tf4ctr.tower:TF4CTR"),
    "dual_attention": _Model(
        "dual_attention.settings:DualAttentionConfig", "dual_attention.tower:DualAttention"
    ),
    "transformer": _Model(
        "dual_attention.settings:TransformerConfig", "dual_attention.transformer:Transformer"
    ),
}


def model_names() -> tuple[str, ...]:
    """Returns the names of all models."""
    return tuple(_MODELS)


def config_class(name: str) -> type:
    """Returns the settings class of a model; imports no torch.

    Raises:
        ConfigError: there is no such model.
    """
    return resolve_name(f"ctrdist.models.{_entry(name).settings}")


def experiment_class(name: str) -> type[Experiment]:
    """Returns the experiment dataclass of a model; raises ConfigError if there is no such model."""
    return experiment_of(name, config_class(name))


def read_experiment(values: Mapping[str, Any], where: str) -> Experiment:
    """Builds an experiment of any model from the result of to_dict, see :func:`from_dict`."""
    return from_dict(experiment_class(values["model_name"]), dict(values), where)


def build_tower(name: str, config: Any, num_fields: int) -> nn.Module:
    """Builds a freshly initialised tower for F = num_fields on the current default device.

    Raises:
        ConfigError: there is no such model, or the config is that of another model or does not fit
            the data.
    """
    model, expected = _entry(name), config_class(name)
    if not isinstance(config, expected):
        raise ConfigError(
            f"model {name} got settings of type {type(config).__name__}; it needs "
            f"{expected.__name__}."
        )
    return resolve_name(f"ctrdist.models.{model.tower}")(config, num_fields)


def check_loss(loss: LossConfig, name: str) -> None:
    """Raises ConfigError for a loss of two encoders if the model of that name has one."""
    if not LOSSES[loss.name].two_encoders or _has_two_encoders(name):
        return
    *others, last = [n for n, entry in LOSSES.items() if not entry.two_encoders]
    raise ConfigError(
        f"loss.name = {loss.name} needs the logits of two encoders, and model {name} has one. "
        f"Set loss.name to {', '.join(others)} or {last}, or train a model that has two: "
        f"{', '.join(filter(_has_two_encoders, _MODELS))}."
    )


def _has_two_encoders(name: str) -> bool:
    return getattr(config_class(name), "two_encoders", False)


def _entry(name: str) -> _Model:
    if name not in _MODELS:
        near = difflib.get_close_matches(name.lower(), _MODELS, n=1, cutoff=0.3)
        hint = f"the nearest is '{near[0]}'; " if near else ""
        raise ConfigError(f"there is no model '{name}'; {hint}choose one of: {', '.join(_MODELS)}.")
    return _MODELS[name]
