"""System metrics, sampled in a thread of their own."""

import sys
import threading
from collections.abc import Callable
from contextlib import suppress

import psutil

_MIB, _GIB = 1 << 20, 1 << 30


class SystemSampler(threading.Thread):
    """Records figures of the machine and of this process tree until it is stopped."""

    def __init__(
        self, record: Callable[[dict[str, float]], None], disk: str, interval: float = 10.0
    ) -> None:
        """Does not start yet.

        `record` gets the metrics, named system/… with their unit, every so many seconds. The path
        is on the disk whose space is recorded.
        """
        super().__init__(name="system-metrics", daemon=True)
        self._record, self._disk, self._interval = record, disk, interval
        self._ended = threading.Event()

    def run(self) -> None:
        """Samples."""
        process = psutil.Process()
        psutil.cpu_percent()  # The first call of both starts the measurement and returns 0.
        process.cpu_percent()
        before = _counters()
        while not self._ended.wait(self._interval):
            now = _counters()
            rates = {k: (now[k] - before[k]) / self._interval / _MIB for k in now if k in before}
            before = now
            with suppress(psutil.Error):  # A child ended during the measurement.
                self._record({**_sample(process, self._disk), **rates, **_gpu()})

    def stop(self) -> None:
        """Ends the thread, and waits for it."""
        self._ended.set()
        if self.is_alive():
            self.join(5)


def _sample(process: psutil.Process, disk: str) -> dict[str, float]:
    memory, usage = psutil.virtual_memory(), psutil.disk_usage(disk)
    tree = (process, *process.children(recursive=True))
    return {
        "system/cpu_percent": psutil.cpu_percent(),
        "system/process_cpu_percent": process.cpu_percent(),
        "system/process_tree_memory_gib": sum(p.memory_info().rss for p in tree) / _GIB,
        "system/memory_used_gib": memory.used / _GIB,
        "system/memory_percent": memory.percent,
        "system/disk_free_gib": usage.free / _GIB,
        "system/disk_percent": usage.percent,
    }


def _counters() -> dict[str, int]:
    """Bytes since the machine's start, without the counters that a container hides."""
    counters: dict[str, int] = {}
    if disk := psutil.disk_io_counters():
        counters["system/disk_read_mib_per_s"] = disk.read_bytes
        counters["system/disk_write_mib_per_s"] = disk.write_bytes
    if net := psutil.net_io_counters():
        counters["system/net_received_mib_per_s"] = net.bytes_recv
        counters["system/net_sent_mib_per_s"] = net.bytes_sent
    return counters


def _gpu() -> dict[str, float]:
    """Figures of this process's GPU, once training has begun to use it."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    free, total = torch.cuda.mem_get_info()
    metrics = {
        "system/gpu_memory_used_gib": (total - free) / _GIB,
        "system/gpu_memory_percent": 100 * (total - free) / total,
        "system/gpu_memory_allocated_gib": torch.cuda.memory_allocated() / _GIB,
    }
    with suppress(Exception):  # These ask NVML, whose Python package may be missing.
        metrics["system/gpu_percent"] = float(torch.cuda.utilization())
        metrics["system/gpu_temperature_c"] = float(torch.cuda.temperature())
        metrics["system/gpu_power_w"] = torch.cuda.power_draw() / 1000
    return metrics
