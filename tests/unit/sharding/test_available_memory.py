"""Memory for the planner: the machine's, or what a container leaves of it."""

from pathlib import Path

import psutil
import pytest

from ctrdist.sharding.memory import available_memory

TOTAL = psutil.virtual_memory().total


def limited(root: Path, membership: str, limits: dict[str, str]) -> int:
    (root / "self").write_text(membership)
    for path, text in limits.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return available_memory(root, root / "self")


@pytest.mark.parametrize(
    ("membership", "limits", "expected"),
    [
        # version 2, seen from inside a container: the group is the mount itself
        ("0::/\n", {"memory.max": "1048576\n"}, 2**20),
        # version 2, a service: its own limit, then that of the group above
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": "2097152\n"}, 2**21),
        ("0::/a/b\n", {"a/b/memory.max": "1048576\n", "a/memory.max": "2097152\n"}, 2**20),
        # version 1
        ("4:memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": "1048576\n"}, 2**20),
        ("4:cpu,memory:/hidden\n", {"memory/memory.limit_in_bytes": "1048576\n"}, 2**20),
        # no limit
        ("0::/\n", {"memory.max": "max\n"}, TOTAL),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, TOTAL),
        ("3:cpu:/a\n", {"cpu/a/memory.limit_in_bytes": "1048576\n"}, TOTAL),
    ],
)
def test_the_limit_of_a_container_counts(tmp_path, membership, limits, expected):
    assert limited(tmp_path, membership, limits) == expected


def test_without_control_groups_the_machine_counts(tmp_path):
    assert available_memory(tmp_path, tmp_path / "missing") == TOTAL
