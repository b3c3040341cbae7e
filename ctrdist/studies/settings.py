"""The settings that the results of a run depend on, to compare them with those of a later run."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from ctrdist.config.experiment import Experiment
from ctrdist.config.migrations import migrated
from ctrdist.config.parse import from_dict, to_dict
from ctrdist.errors import ConfigError

_NOT_COMPARED = ("data", "run_name", "runs", "checkpoint", "faults", "tracking", "diagnostics")
"""Settings that results do not depend on."""


def compared_settings(experiment: Experiment, data_fingerprint: str) -> dict[str, Any]:
    """Returns all that the results of a run depend on: its settings and the rows, not paths."""
    values = to_dict(experiment)
    kept = {key: value for key, value in values.items() if key not in _NOT_COMPARED}
    return {**kept, "data_fingerprint": data_fingerprint}


def changed_settings(
    begun: dict[str, Any], experiment: Experiment, data_fingerprint: str
) -> list[str]:
    """Returns how an experiment differs from saved :func:`compared_settings`, by dotted names.

    A setting that did not exist yet had its default of today, with which a run computes the same.
    """
    settings = dict(migrated(begun))
    fingerprint = settings.pop("data_fingerprint", "")
    with suppress(ConfigError):  # a setting that no longer exists makes the two differ
        begun = compared_settings(from_dict(type(experiment), settings, "begun"), fingerprint)
    now = compared_settings(experiment, data_fingerprint)
    # as JSON, where tuples are lists and keys are strings
    return _changed(*(json.loads(json.dumps(each)) for each in (begun, now)))


def fingerprint_of(data: str) -> str:
    """Returns the fingerprint in a data set's manifest."""
    from ctrdist.data.manifest import open_dataset  # here, because it imports Arrow

    return open_dataset(data).manifest.fingerprint


def _changed(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Returns the differences of two nested mappings, by dotted names."""
    if isinstance(old, dict) and isinstance(new, dict):
        parts = []
        for key in sorted({*old, *new}):
            parts += _changed(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
        return parts
    return [] if old == new else [f"{prefix}: {old} → {new}"]
