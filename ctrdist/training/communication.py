"""How long workers exchange something in a step: sampled by torch's profiler in a few steps.

What counts is the time during which an exchange is under way on this rank, waiting for the others
included: a meeting in shared memory, a collective of gloo, a kernel of NCCL. A meeting stops this
rank; the others go on beside its computation, so that this share comes on top of no other.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from ctrdist.distributed import EXCHANGE


class Trace:
    """Watches from its making until it is stopped."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        activities = [ProfilerActivity.CPU]
        if device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
            torch.cuda.synchronize(device)
        self._profile = profile(activities=activities)
        self._profile.start()
        self._begun = time.perf_counter()

    def stop(self) -> tuple[float, float]:
        """Seconds in which an exchange was under way, and seconds since the beginning."""
        on_gpu = self._device.type == "cuda"
        if on_gpu:
            torch.cuda.synchronize(self._device)
        seconds = time.perf_counter() - self._begun
        self._profile.stop()
        kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
        names = ("nccl",) if on_gpu else ("gloo:", EXCHANGE)
        spans = [
            (event.time_range.start, event.time_range.end)
            for event in self._profile.events()
            if event.device_type == kind and event.name.startswith(names)
        ]
        return covered(spans) / 1e6, seconds


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of spans (begin, end)."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total
