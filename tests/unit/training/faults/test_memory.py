"""Errors that mean a lack of memory, and the message about it."""

import pytest
import torch

from ctrdist.training.faults.memory import is_out_of_memory, out_of_memory_text


def test_pytorch_says_it_in_words_that_are_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("Connection closed by peer"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_kinds(error, expected):
    assert is_out_of_memory(error) == expected


def test_text_says_who_what_and_what_to_change():
    text = out_of_memory_text(3, "CUDA out of memory.\nTried", 5 * 2**20, 4096)
    assert text.startswith("worker 3 ran out of memory (CUDA out of memory. Tried)")
    for part in (
        "5.0 MiB",
        "4,096 rows",
        "loader.batch_size",
        "sharding.memory_gb",
        "optim.tables",
    ):
        assert part in text
