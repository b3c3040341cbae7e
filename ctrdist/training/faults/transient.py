"""Tells errors that another attempt may not meet from those that would come again."""

import re

from ctrdist.storage import is_storage_error

_LASTING = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)
_KINDS = {"DistError", "RayError", "CheckpointException"}
"""Names of base classes: process groups, Ray, and a checkpoint whose files were not written."""
_TEXTS = re.compile(
    r"gloo|nccl|connection (closed|reset|refused)|broken pipe|timed out|"
    r"(cuda|cublas|cudnn)( \w+)? error(?!: device-side assert)|CUBLAS_STATUS|CUDNN_STATUS",
    re.IGNORECASE,
)
"""PyTorch has no class for a lost connection or a failing device: these are RuntimeErrors."""


def may_pass(error: BaseException) -> bool:
    """True if a store, a connection, another worker or a device has failed.

    Otherwise it is the code, the settings or the data that the next attempt has too.
    """
    if any(kind.__name__ in _KINDS for kind in type(error).__mro__):
        return True
    if isinstance(error, RuntimeError) and _TEXTS.search(str(error)):
        return True
    return is_storage_error(error) and not isinstance(error, _LASTING)
