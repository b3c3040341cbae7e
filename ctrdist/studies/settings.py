"""The settings that the results of a run depend on, to compare them with those of a later run."""

from __future__ import annotations

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


def in_todays_settings(begun: dict[str, Any], like: Experiment) -> dict[str, Any]:
    """Returns saved :func:`compared_settings` as they would be saved today.

    A setting that did not exist yet gets its default, with which a run computes the same as before.

    Args:
        begun: as read from a file.
        like: an experiment of today with the same model.
    """
    values = migrated(begun)
    fingerprint = values.get("data_fingerprint", "")
    settings = {key: value for key, value in values.items() if key != "data_fingerprint"}
    try:
        return compared_settings(from_dict(type(like), settings, "begun"), fingerprint)
    except ConfigError:  # a setting that no longer exists makes the two differ
        return begun


def fingerprint_of(data: str) -> str:
    """Returns the fingerprint in a data set's manifest."""
    from ctrdist.data.manifest import open_dataset  # here, because it imports Arrow

    return open_dataset(data).manifest.fingerprint
