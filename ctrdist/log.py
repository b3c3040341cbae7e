"""Logging of jobs and workers: lines of this project from rank 0, and warnings from all ranks."""

import logging
import os
import re
import sys
import warnings
from collections.abc import Callable

OURS = ("ctrdist", "cluster", "preprocessing", "jobs", "__main__", "__mp_main__")
"""Loggers and modules of this project, which are never filtered."""

# Warnings of libraries that a user cannot act on: logger → start of the message.
_NOISE = {
    "torch.fx._symbolic_trace": "is_fx_tracing will return true",  # For each sharded module.
    "torchrec.distributed.utils": "Sharding Type is data_parallel, caching params",
    "root": "Sharding spec not found for",  # Once per replicated table.
    "torchrec.distributed.planner.types": "The topology was constructed directly",
    "torchrec.distributed.planner.storage_reservations": "There is a known issue with TorchRec's",
}
# The same for Python's warnings: starts of messages, as regular expressions.
_NOISE_WARNINGS = (
    r"fbgemm::\w+: an autograd kernel was not registered",  # Once per dense kernel.
    "pkg_resources is deprecated",
    "TypedStorage is deprecated",
    r"`torch\.jit",
)
_QUIET_ENVIRONMENT = {
    # MLflow sets up its own loggers when it is imported, and reports each table that it creates.
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # MLflow imports GitPython, which warns if there is no git.
    "GIT_PYTHON_REFRESH": "quiet",
    # C++ warnings of torch.distributed, such as that a host name has no IPv6 address.
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    # Without an exporter, each process warns that its metrics are not exported.
    "RAY_enable_metrics_collection": "0",
}


def _is_no_noise(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_NOISE[record.name])


class _Formatter(logging.Formatter):
    """Formats `12:30:05 message`. Adds level and origin unless INFO, and the rank unless 0."""

    def __init__(self, rank: int) -> None:
        super().__init__(datefmt="%H:%M:%S")
        self.rank = f" [rank {rank}]" if rank else ""

    def formatMessage(self, record: logging.LogRecord) -> str:
        start = f"{self.formatTime(record, self.datefmt)}{self.rank}"
        if record.levelno == logging.INFO:
            return f"{start} {record.message}"
        return f"{start} {record.levelname} {record.name}: {record.message}"


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to the current sys.stderr, which Ray and pytest replace. Recognised by its type."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self):  # type: ignore[no-untyped-def]
        return sys.stderr


class _Forwarder(logging.Handler):
    """Passes each line to a function, or to stderr where the function fails."""

    def __init__(self, take: Callable[[str], None]) -> None:
        super().__init__()
        self._take = take

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        try:
            self._take(text)
        except Exception:
            sys.stderr.write(f"{text}\n")


def setup(rank: int, level: int = logging.INFO) -> None:
    """Sets up logging of this process. Call it before torchrec, ray or mlflow are imported.

    It may be called again, for instance once the rank is known. Handlers that write files stay.
    Rank 0 shows this project's lines from `level` on, others from WARNING on; libraries show
    warnings only.
    """
    for name, value in quiet_environment().items():
        os.environ.setdefault(name, value)
    console = _Handler()
    console.setFormatter(_Formatter(rank))
    root = logging.getLogger()
    root.handlers[:] = [h for h in root.handlers if not _writes_to_console(h)] + [console]
    root.setLevel(logging.WARNING)
    for name in OURS:
        logging.getLogger(name).setLevel(level if rank == 0 else max(level, logging.WARNING))
    # A level set before these libraries are imported stays.
    for name in ("torchrec", "fbgemm_gpu", "alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in _NOISE:
        logging.getLogger(name).addFilter(_is_no_noise)
    # A warning counts as ours if it is attributed to one of our modules.
    not_ours = f"(?!(?:{'|'.join(re.escape(name) for name in OURS)})(?:\\.|$))"
    for category in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
        warnings.filterwarnings("ignore", category=category, module=not_ours)
    for start in _NOISE_WARNINGS:
        warnings.filterwarnings("ignore", message=start)


def forward(rank: int, take: Callable[[str], None]) -> None:
    """Passes this project's lines to a function in place of stderr, which Ray's workers hide."""
    handler = _Forwarder(take)
    handler.setFormatter(_Formatter(rank))
    for name in OURS:
        logger = logging.getLogger(name)
        logger.handlers[:], logger.propagate = [handler], False


def quiet_environment() -> dict[str, str]:
    """Environment variables for workers and Ray's own processes; variables already set win."""
    return {name: os.environ.get(name, value) for name, value in _QUIET_ENVIRONMENT.items()}


def _writes_to_console(handler: logging.Handler) -> bool:
    # Not every StreamHandler: those of files and of pytest's captures stay.
    return type(handler) in (logging.StreamHandler, _Handler) or (
        type(handler).__name__ == "PlainRayHandler"  # Layer 1 does not import ray.
    )
