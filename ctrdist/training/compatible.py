"""Checks that a checkpoint belongs to a run: the same model, loss, table optimiser and data."""

from __future__ import annotations

from typing import Any

import yaml

from ctrdist.checkpoint.store import Opened
from ctrdist.config.experiment import Experiment
from ctrdist.config.losses import LossConfig
from ctrdist.config.parse import to_dict
from ctrdist.errors import CheckpointError


def check_same_model(saved: Opened, experiment: Experiment, schema_json: str) -> None:
    """Refuses a checkpoint of another model, loss, table optimiser or schema.

    Raises:
        CheckpointError: names the first setting that differs.
    """
    theirs = _compared(yaml.safe_load(saved.texts.config))
    for key, new in _compared(to_dict(experiment)).items():
        old = theirs.get(key)
        if old != new:
            raise CheckpointError(
                f"{saved.path}: was made with {key} = {old!r}, this run has {key} = {new!r}. "
                f"Use the same settings (--config {saved.path}/config.yaml), or another "
                "--run-name to begin anew."
            )
    check_same_data(saved, schema_json)


def _compared(config: dict[str, Any]) -> dict[str, Any]:
    """Settings that a checkpoint and its run must share; defaults where an old config has none."""
    optim = config["optim"]
    loss = config.get("loss", to_dict(LossConfig()))
    return {
        "model_name": config.get("model_name"),
        **{f"model.{key}": value for key, value in config.get("model", {}).items()},
        **{f"loss.{key}": value for key, value in loss.items()},
        "optim.tables.name": optim["tables"]["name"],
        "optim.codebooks.name": (optim.get("codebooks") or optim["tables"])["name"],
        "sharding.tables_dtype": config["sharding"].get("tables_dtype", "float32"),
        "optim.ema_decay above 0": optim.get("ema_decay", 0.0) > 0,
    }


def check_same_data(saved: Opened, schema_json: str) -> None:
    """Refuses a checkpoint of other fields or vocabularies.

    Raises:
        CheckpointError: the schemas differ.
    """
    if saved.texts.schema != schema_json:
        raise CheckpointError(
            f"{saved.path}: was made with data of another schema (its fields or vocabularies "
            "differ). Give --data the directory that it was trained on, or begin anew: another "
            "--run-name."
        )
