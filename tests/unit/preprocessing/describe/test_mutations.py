"""Bytes that are changed at random are described, or refused in one message."""

import numpy as np
import pytest
import yaml

from benchmarks.measuring.log_shapes import make
from ctrdist.errors import UserError
from preprocessing.config.describe import DescribeConfig
from preprocessing.describe.draft import draft
from preprocessing.describe.log import describe_log

PARTS = [
    b"",
    b"\0",
    b'"',
    b"\n",
    b"\r",
    b",",
    b"\t",
    b"\xff",
    b"\\",
    b"1e999",
    b"{",
    b"[",
    b"NaN",
    b"::",
]
MUTATIONS = 25


@pytest.mark.parametrize("shape", ["german", "json_lines", "movielens", "parquet", "orc_file"])
def test_every_mutation_is_described_or_refused(shape, tmp_path):
    rng = np.random.default_rng(3)
    make(shape, tmp_path / "log", rows=40)
    file = next((tmp_path / "log").iterdir())
    whole = file.read_bytes()
    described = 0
    for _ in range(MUTATIONS):
        content = bytearray(whole)
        for _ in range(rng.integers(1, 8)):
            place = rng.integers(len(content))
            content[place : place + rng.integers(3)] = PARTS[rng.integers(len(PARTS))]
        file.write_bytes(content)
        try:
            guesses, _ = describe_log(DescribeConfig(input=[str(file)]))
        except UserError:
            continue
        assert yaml.safe_load(draft(guesses))["columns"]
        described += 1
    assert described or shape in ("parquet", "orc_file")
