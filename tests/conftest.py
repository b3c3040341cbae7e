"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def rng() -> np.random.Generator:
    """Seeded, so that a failure repeats."""
    return np.random.default_rng(2024)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real logs, which may not be redistributed."""
    path = Path(os.environ.get("CTRDIST_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(
            f"real logs are not at {path}; "
            "set CTRDIST_DATA to the folder that has criteo/, frappe/, movielens-1m/"
        )
    return path
