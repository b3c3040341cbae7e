"""Fixtures that all tests share."""

import os
from collections.abc import Callable
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # several test processes share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest

from ctrdist.native.build import NativeLibrary

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def rng() -> np.random.Generator:
    """Seeded, so that a failure repeats."""
    return np.random.default_rng(2024)


@pytest.fixture
def drop_compiler(monkeypatch) -> Callable[[], None]:
    """A function that makes all C code unavailable for the rest of the test."""
    return lambda: monkeypatch.setattr(NativeLibrary, "load", lambda self: None)


@pytest.fixture(params=["c", "python"])
def c_or_python(request, drop_compiler) -> str:
    """Runs a test with the C code and with the Python code that replaces it."""
    if request.param == "python":
        drop_compiler()
    else:
        assert NativeLibrary("strings").load() is not None, "the tests need a C compiler"
    return request.param


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files that wait for Ray first: at the end no process waits alone for the others."""
    first = ("integration", "distributed")

    def rank(item: pytest.Item) -> int:
        folder = item.path.relative_to(ROOT / "tests").parts[0]
        return first.index(folder) if folder in first else len(first)

    items.sort(key=rank)
