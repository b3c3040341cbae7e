"""An error that another attempt may not meet is told from one that would come again."""

import pytest
import torch
from torch.distributed import DistBackendError, DistNetworkError, DistStoreError

from ctrdist.storage import StorageError
from ctrdist.training.faults.transient import may_pass


@pytest.mark.parametrize(
    "error",
    [
        StorageError("the bucket does not answer"),
        ConnectionError("worker 1 is gone"),
        TimeoutError("worker 1 did not answer"),
        OSError(28, "No space left on device"),
        DistBackendError("NCCL communicator was aborted"),
        DistStoreError("wait timeout after 300000ms"),
        DistNetworkError("the client socket has failed to connect"),
        RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed"),
        RuntimeError("[Rank 0] Watchdog caught collective operation timeout: NCCL timed out"),
        RuntimeError("CUDA error: uncorrectable ECC error encountered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    ],
    ids=str,
)
def test_a_store_a_connection_and_a_device_may_work_again(error):
    assert may_pass(error)


def shapes() -> Exception:
    with pytest.raises(RuntimeError) as caught:
        torch.zeros(2, 3) @ torch.zeros(2, 3)
    return caught.value


def one_row() -> Exception:
    with pytest.raises(ValueError) as caught:
        torch.nn.BatchNorm1d(3)(torch.zeros(1, 3))
    return caught.value


@pytest.mark.parametrize(
    "error",
    [
        shapes(),
        one_row(),
        KeyError("C7"),
        TypeError("not a number"),
        AssertionError(),
        FileNotFoundError(2, "No such file"),
        PermissionError(13, "Permission denied"),
        RuntimeError("CUDA error: device-side assert triggered"),
    ],
    ids=str,
)
def test_code_settings_and_data_are_the_same_in_the_next_attempt(error):
    assert not may_pass(error)
