"""An earlier data set whose ids and transforms a new one keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ctrdist.data.manifest import open_dataset
from ctrdist.errors import ConfigError
from ctrdist.features.columns import has_vocabulary
from ctrdist.storage import Store
from preprocessing.config.settings import PreprocessConfig

_FREE = (
    "name",
    "input",
    "split",
    "min_count",
    "bad_rows",
    "shuffle",
    "row_group_size",
    "shard_bytes",
    "new_values",
    "format",
)
"""Settings in which a data set may differ from its parent."""


@dataclass(frozen=True)
class Parent:
    """What is needed of it."""

    store: Store
    fingerprint: str
    fields: tuple[str, ...]
    """Those with a vocabulary."""
    transforms: Mapping[str, Any]


def open_parent(config: PreprocessConfig) -> Parent | None:
    """The parent, where the config names one.

    Raises:
        DataError: there is no finished data set.
        ConfigError: its columns are not those of the config.
    """
    if not config.parent:
        return None
    there = open_dataset(config.parent)
    old, new = dict(there.manifest.config), config.for_manifest()
    differing = [k for k in new if k not in _FREE and old.get(k, new[k]) != new[k]]
    if differing:
        raise ConfigError(
            f"parent {config.parent}: it was made with other {', '.join(differing)}. Ids and "
            "transforms can only be kept where columns, joins and crosses are the same; use its "
            "data-set YAML, or preprocess without parent."
        )
    lacking = [n for n in config.numeric if n.transform != "raw"]
    if lacking and not there.manifest.transforms:
        raise ConfigError(
            f"parent {config.parent}: written by an older version, which did not keep the means "
            "of numbers. Preprocess it again."
        )
    fields = tuple(c.name for c in config.categorical if has_vocabulary(c)) + config.derived
    return Parent(
        Store(config.parent), there.manifest.fingerprint, fields, there.manifest.transforms
    )
