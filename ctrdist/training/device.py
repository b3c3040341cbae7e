"""Checks settings against the device, and sets its global switches."""

from __future__ import annotations

import ctypes
import os
import shutil

import torch

from ctrdist.config.experiment import Experiment
from ctrdist.errors import ConfigError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_KEPT_BYTES = 2**29
"""Larger blocks, which are tables, still go back to the system when they are freed."""


def prepare_device(experiment: Experiment, device: str) -> None:
    """Sets the switches that the settings need on a device, cpu or cuda.

    Raises:
        ConfigError: the device does not support a setting; says what is allowed.
    """
    train, loader = experiment.train, experiment.loader
    if train.precision == "float16" and device == "cpu":
        raise ConfigError(
            "train.precision = float16 needs a GPU. Use bfloat16, which needs no scaled loss, or "
            "float32."
        )
    if train.precision == "tf32" and device == "cpu":
        raise ConfigError(
            "train.precision = tf32 needs an NVIDIA GPU: CPUs have no such products. Use bfloat16 "
            "or float32."
        )
    torch.set_float32_matmul_precision("high" if train.precision == "tf32" else "highest")
    if not 1 <= loader.accumulate <= loader.batch_size:
        raise ConfigError(
            f"loader.accumulate = {loader.accumulate}: micro-batches of a step, from 1 to "
            f"loader.batch_size = {loader.batch_size}."
        )
    if train.compile and not has_compiler():
        raise ConfigError(
            "train.compile = true needs a C++ compiler, and none was found: install g++ or clang, "
            "or name one in the environment variable CXX; or leave train.compile out."
        )
    if train.deterministic:
        # cuBLAS reads it when it is first used
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(train.deterministic)
    if device == "cpu":
        keep_freed_memory()


def keep_freed_memory() -> None:
    """Makes this process keep the memory that a step frees, so that the next step uses it again.

    By default glibc gives large blocks back to the system, which must clear and map each of their
    pages again in every step: on a virtual machine that alone can take longer than the computation.
    This has no effect with another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)  # the largest int
        mallopt(_M_ARENA_MAX, 1)  # other threads' arenas ignore these settings


def has_compiler() -> bool:
    """Tells if torch.compile will find a C++ compiler."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    return any(shutil.which(name) for name in names)
