"""What a device cannot do, and its global switches."""

from __future__ import annotations

import ctypes
import os
import shutil

import torch

from ctrdist.config.experiment import Experiment
from ctrdist.errors import ConfigError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_KEPT_BYTES = 2**29
"""Larger blocks, which are tables, are still given back when they are freed."""


def prepare_device(experiment: Experiment, device: str) -> None:
    """Refuses settings that the device cannot follow, and sets the switches that they ask for.

    Args:
        experiment: the run's settings.
        device: cpu or cuda.

    Raises:
        ConfigError: names the setting and what is allowed.
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
            f"loader.accumulate = {loader.accumulate}: slices of a step, from 1 to "
            f"loader.batch_size = {loader.batch_size}."
        )
    if train.compile and not has_compiler():
        raise ConfigError(
            "train.compile = true needs a C++ compiler, and none was found: install g++ or clang, "
            "or name one in the environment variable CXX; or leave train.compile out."
        )
    if train.deterministic:
        # read by cuBLAS when it is first used
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(train.deterministic)
    if device == "cpu":
        keep_freed_memory()


def keep_freed_memory() -> None:
    """Lets this process keep the memory that a step frees, for the next step to use again.

    By default glibc gives large blocks back to the system, which must clear and map each of their
    pages anew in every step: on a virtual machine that alone can take longer than the computation.
    No effect with another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)  # an int: no more can be asked for
        mallopt(_M_ARENA_MAX, 1)  # the arenas of other threads give back whatever is asked for


def has_compiler() -> bool:
    """Whether torch.compile will find a C++ compiler."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    return any(shutil.which(name) for name in names)
