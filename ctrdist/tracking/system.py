"""System metrics, sampled in a thread of their own."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 10.0
_MIB, _GIB = 1 << 20, 1 << 30


class SystemSampler(threading.Thread):
    """Calls `record` with the machine's and this process tree's figures until stopped."""

    def __init__(
        self,
        record: Callable[[dict[str, float]], None],
        disk: str,
        interval: float = INTERVAL_SECONDS,
    ) -> None:
        """Does not start yet.

        Args:
            record: gets the metrics, named system/… with their unit.
            disk: a path on the disk whose space is of interest.
            interval: seconds between two samples.
        """
        super().__init__(name="system-metrics", daemon=True)
        self._record = record
        self._disk = disk
        self._interval = interval
        self._ended = threading.Event()

    def run(self) -> None:
        """Samples; ends at once where psutil is not installed."""
        try:
            import psutil
        except ImportError:
            log.info("psutil is not installed: no system metrics")
            return
        process = psutil.Process()
        psutil.cpu_percent()  # the first call of both starts the measurement and returns 0
        process.cpu_percent()
        before = _counters(psutil)
        while not self._ended.wait(self._interval):
            now = _counters(psutil)
            rates = {k: (now[k] - before[k]) / self._interval / _MIB for k in now if k in before}
            before = now
            try:
                self._record({**_sample(psutil, process, self._disk), **rates, **_gpu()})
            except psutil.Error:
                continue  # a child ended while it was looked at

    def stop(self) -> None:
        """Ends the thread; returns when it has ended."""
        self._ended.set()
        if self.is_alive():
            self.join(5)


def _sample(psutil: Any, process: Any, disk: str) -> dict[str, float]:
    memory = psutil.virtual_memory()
    tree = process.memory_info().rss
    for child in process.children(recursive=True):
        try:
            tree += child.memory_info().rss
        except psutil.Error:
            continue
    usage = psutil.disk_usage(disk)
    return {
        "system/cpu_percent": psutil.cpu_percent(),
        "system/process_cpu_percent": process.cpu_percent(),
        "system/process_tree_memory_gib": tree / _GIB,
        "system/memory_used_gib": memory.used / _GIB,
        "system/memory_percent": memory.percent,
        "system/disk_free_gib": usage.free / _GIB,
        "system/disk_percent": usage.percent,
    }


def _counters(psutil: Any) -> dict[str, int]:
    """Bytes since the machine's start; without those that a container hides."""
    counters: dict[str, int] = {}
    if disk := psutil.disk_io_counters():
        counters["system/disk_read_mib_per_s"] = disk.read_bytes
        counters["system/disk_write_mib_per_s"] = disk.write_bytes
    if net := psutil.net_io_counters():
        counters["system/net_received_mib_per_s"] = net.bytes_recv
        counters["system/net_sent_mib_per_s"] = net.bytes_sent
    return counters


def _gpu() -> dict[str, float]:
    """Of this process's GPU, only once training has begun to use it."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return {}
    free, total = torch.cuda.mem_get_info()
    metrics = {
        "system/gpu_memory_used_gib": (total - free) / _GIB,
        "system/gpu_memory_percent": 100 * (total - free) / total,
        "system/gpu_memory_allocated_gib": torch.cuda.memory_allocated() / _GIB,
    }
    # The rest asks NVML, whose Python package need not be there.
    for name, ask in (
        ("system/gpu_percent", torch.cuda.utilization),
        ("system/gpu_temperature_c", torch.cuda.temperature),
        ("system/gpu_power_w", lambda: torch.cuda.power_draw() / 1000),
    ):
        try:
            metrics[name] = float(ask())
        except Exception:
            break
    return metrics
