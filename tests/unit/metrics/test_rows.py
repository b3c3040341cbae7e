"""Digest of rows."""

import numpy as np
import pytest
import torch

from ctrdist.metrics.rows import digest, digest_of_range

MASK = 2**64 - 1


def splitmix64(x: int) -> int:
    z = x * 0x9E3779B97F4A7C15 & MASK
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return z ^ z >> 31


def test_splitmix64_is_the_published_function():
    # First output of the reference generator with seed 0, which is the mix of one increment.
    assert splitmix64(1) == 0xE220A8397B1DCDAF
    assert digest(np.array([0])) == 0xE220A8397B1DCDAF


def test_digest_is_the_sum_in_any_order_and_type(rng):
    rows = rng.integers(0, 2**62, 500)
    expected = sum(splitmix64(int(r) + 1) for r in rows) % 2**64
    assert (
        digest(rows) == digest(rng.permutation(rows)) == digest(torch.from_numpy(rows)) == expected
    )


@pytest.mark.parametrize("n", [0, 1, 1000, (1 << 20) + 3])
def test_digest_of_a_range_equals_that_of_its_rows_and_of_its_parts(n, rng):
    rows = rng.permutation(n)
    assert digest_of_range(n) == digest(rows)
    assert digest_of_range(n) == (digest(rows[: n // 3]) + digest(rows[n // 3 :])) % 2**64


def test_a_missing_or_repeated_row_shows():
    rows = np.arange(1000)
    assert digest(rows[1:]) != digest_of_range(1000)
    repeated = rows.copy()
    repeated[7] = 8
    assert digest(repeated) != digest_of_range(1000)
