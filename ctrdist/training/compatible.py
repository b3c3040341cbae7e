"""Whether a checkpoint belongs to a run: the same model, loss, table optimiser and data."""

from __future__ import annotations

from typing import Any

import yaml

from ctrdist.checkpoint.store import Opened
from ctrdist.config.experiment import Experiment, LossConfig
from ctrdist.config.parse import to_dict
from ctrdist.errors import CheckpointError


def check_same_model(saved: Opened, experiment: Experiment, schema_json: str) -> None:
    """Refuses a checkpoint of another model, loss, table optimiser or schema.

    Raises:
        CheckpointError: names the first setting that differs.
    """
    theirs, mine = yaml.safe_load(saved.texts.config), to_dict(experiment)
    pairs = [("model_name", theirs.get("model_name"), mine["model_name"])]
    pairs += [(f"model.{k}", theirs.get("model", {}).get(k), v) for k, v in mine["model"].items()]
    loss = theirs.get("loss", to_dict(LossConfig()))  # older runs had no other
    pairs += [(f"loss.{k}", loss.get(k), v) for k, v in mine["loss"].items()]
    pairs.append(
        ("optim.tables.name", theirs["optim"]["tables"]["name"], mine["optim"]["tables"]["name"])
    )
    pairs.append(("optim.codebooks.name", _codebooks(theirs["optim"]), _codebooks(mine["optim"])))
    pairs.append(
        (
            "sharding.tables_dtype",
            theirs["sharding"].get("tables_dtype", "float32"),
            mine["sharding"]["tables_dtype"],
        )
    )
    pairs.append(
        (
            "optim.ema_decay above 0",
            theirs["optim"].get("ema_decay", 0.0) > 0,
            mine["optim"]["ema_decay"] > 0,
        )
    )
    for key, old, new in pairs:
        if old != new:
            raise CheckpointError(
                f"{saved.path}: was made with {key} = {old!r}, this run has {key} = {new!r}. "
                f"Use the same settings (--config {saved.path}/config.yaml), or another "
                "--run-name to begin anew."
            )
    check_same_data(saved, schema_json)


def _codebooks(optim: dict[str, Any]) -> str:
    """The codebooks' optimiser, by default the tables'."""
    return (optim.get("codebooks") or optim["tables"])["name"]


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
