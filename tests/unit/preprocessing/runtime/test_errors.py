"""The message of a storage error says what is done, what to do, and how to resume."""

import errno

import pytest
from botocore.exceptions import EndpointConnectionError

from ctrdist.storage import is_storage_error
from preprocessing.runtime.errors import storage_failure

DONE = "reading is done, writing is done for 3 of 7 parts; what comes after is not. "


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/disk/a"),
            "--output data/out: /disk/a: No space left on device. reading is done, writing is done "
            "for 3 of 7 parts; what comes after is not. Free space there, or give --work a "
            "directory on another disk; run the same command again to resume.",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/disk/a"),
            "--output data/out: /disk/a: Permission denied. reading is done, writing is done "
            "for 3 of 7 parts; what comes after is not. Give access to it; run the same "
            "command again to resume.",
        ),
        (
            EndpointConnectionError(endpoint_url="http://127.0.0.1:9"),
            '--output data/out: Could not connect to the endpoint URL: "http://127.0.0.1:9". '
            "reading is done, writing is done for 3 of 7 parts; what comes after is not. Remove "
            "the cause; run the same command again to resume.",
        ),
    ],
)
def test_the_message_says_what_is_done_and_what_to_do(error, expected):
    assert is_storage_error(error)
    assert str(storage_failure(error, "data/out", DONE)) == expected


def test_errors_of_the_code_are_no_storage_errors():
    assert not is_storage_error(KeyError("x")) and not is_storage_error(AssertionError())
