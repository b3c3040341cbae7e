"""Settings that were saved by older versions."""

from __future__ import annotations

from typing import Any


def in_todays_names(values: dict[str, Any]) -> dict[str, Any]:
    """A saved experiment's settings as :func:`ctrdist.config.parse.from_dict` reads them today.

    Args:
        values: of a checkpoint's config.yaml; left as they are.
    """
    optim = values.get("optim", {})
    if "codebook_l2" not in optim.get("tables", {}):
        return values
    tables = dict(optim["tables"])
    l2 = tables.pop("codebook_l2")
    codebooks = {} if l2 is None else {"codebooks": {**tables, "l2": l2}}
    return {**values, "optim": {**optim, "tables": tables, **codebooks}}
