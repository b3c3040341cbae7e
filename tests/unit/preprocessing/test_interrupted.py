"""An error of a disk or a store says what is done, what to do, and how to go on."""

from __future__ import annotations

import errno
from types import SimpleNamespace

import pytest
from botocore.exceptions import EndpointConnectionError

from ctrdist.storage import is_storage_error
from preprocessing.config.settings import ColumnConfig, PreprocessConfig
from preprocessing.runtime.errors import explain

CONFIG = PreprocessConfig(
    columns=[ColumnConfig(name="label", role="label"), ColumnConfig(name="c")], output="data/out"
)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/disk/a"),
            "--output data/out: /disk/a: No space left on device. reading is done, writing is done "
            "for 3 of 7 parts; what comes after is not. Free space there, or give --work a "
            "directory on another disk; the same command goes on from there.",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/disk/a"),
            "--output data/out: /disk/a: Permission denied. reading is done, writing is done "
            "for 3 of 7 parts; what comes after is not. Give access to it; the same command goes "
            "on from there.",
        ),
        (
            EndpointConnectionError(endpoint_url="http://127.0.0.1:9"),
            '--output data/out: Could not connect to the endpoint URL: "http://127.0.0.1:9". '
            "reading is done, writing is done for 3 of 7 parts; what comes after is not. Mend it; "
            "the same command goes on from there.",
        ),
    ],
)
def test_what_is_done_and_what_to_do(error, expected):
    runner = SimpleNamespace(passed=[("reading", 4, 4), ("writing", 3, 7)])
    assert is_storage_error(error)
    assert str(explain(error, CONFIG, runner)) == expected  # type: ignore[arg-type]


def test_errors_of_the_code_are_not_a_store_s():
    assert not is_storage_error(KeyError("x")) and not is_storage_error(AssertionError())
