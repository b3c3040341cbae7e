"""Migrations: brings settings that an older version has saved to the names of today."""

from typing import Any


def migrated(values: dict[str, Any]) -> dict[str, Any]:
    """Returns the content of a checkpoint's config.yaml with today's names; the input is kept."""
    optim = values.get("optim", {})
    if "codebook_l2" not in optim.get("tables", {}):
        return values
    tables = dict(optim["tables"])
    l2 = tables.pop("codebook_l2")
    codebooks = {} if l2 is None else {"codebooks": {**tables, "l2": l2}}
    return {**values, "optim": {**optim, "tables": tables, **codebooks}}
