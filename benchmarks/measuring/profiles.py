"""Profiles of a step: the operations that take longest."""

from collections.abc import Callable

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

_LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")


def profiled(run: Callable[[int], None], device: torch.device, rows: int) -> str:
    """A table of the operations of a step that take longest, and on a GPU also of what starts them.

    The GPU's busy time beside the step's tells whether the step waits for the CPU.

    Args:
        run: takes so many steps.
        device: of the steps.
        rows: operations to show.
    """
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        run(1)
        if on_gpu:
            torch.cuda.synchronize(device)
    found = profiler.key_averages()

    def table(unit: str, limit: int) -> str:
        titles = f"{'operation':62}{'ms':>9}{'calls':>8}"
        order = sorted(found, key=lambda event: -getattr(event, unit))[:limit]
        rows = [f"{e.key[:60]:62}{getattr(e, unit) / 1e3:9.3f}{e.count:8}" for e in order]
        return "\n".join([titles, *rows])

    if not on_gpu:
        return table("self_cpu_time_total", rows)
    kernels = [event for event in found if event.device_type == DeviceType.CUDA]
    busy = sum(event.self_device_time_total for event in kernels) / 1e3
    launches = sum(event.count for event in found if event.key in _LAUNCHES)
    return "\n".join(
        [
            f"the GPU computes for {busy:.2f} ms of a step with {launches} launches; there:",
            table("self_device_time_total", rows),
            "on the CPU, slower than without a profile:",
            table("self_cpu_time_total", rows // 2),
        ]
    )
