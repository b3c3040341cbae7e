"""Fixtures of the tests that run against real services."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A local Ray with three CPUs, which all tests of one process share."""
    import ray

    from cluster.session import connect

    connect(3)
    yield
    ray.shutdown()
