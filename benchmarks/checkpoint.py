"""Seconds to save and load a table with its optimiser's state, and for how long steps stand still.

python benchmarks/checkpoint.py --rows 30000000 --dim 16 --repeats 3

Beside ctrdist's format: torch.distributed.checkpoint's own files, and plain writes and reads of as
many bytes as the floor. The files' pages are dropped from the cache before each load.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from ctrdist.checkpoint.store import CheckpointStore, Texts, load_tensors
from ctrdist.config.experiment import CheckpointConfig

TEXTS = Texts(config="model: {}\n", schema="{}", plan="{}")
_PIECE = 16 * 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=30_000_000)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--directory", default="", help="local; empty: a temporary one")
    parser.add_argument("--device", default="cpu", help="where the tensors lie: cpu or cuda")
    parser.add_argument("--only", default="", help="asynchronous: leaves the other ways out")
    options = parser.parse_args()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    tensors = {
        "weight": torch.rand(options.rows, options.dim, device=options.device),
        "momentum": torch.rand(options.rows, device=options.device),
    }
    folder = Path(tempfile.mkdtemp(prefix="ctrdist-bench-", dir=options.directory or None))
    try:
        show(measure(tensors, folder, options.repeats, options.only), size_of(tensors))
    finally:
        shutil.rmtree(folder)
        dist.destroy_process_group()


def measure(
    tensors: dict[str, torch.Tensor], folder: Path, repeats: int, only: str = ""
) -> dict[str, dict[str, list[float]]]:
    """Case → column → seconds of each repeat; the cases take turns."""
    found: dict[str, dict[str, list[float]]] = {}
    stores = {
        name: CheckpointStore(folder / name, CheckpointConfig(asynchronous=asynchronous, keep=1))
        for name, asynchronous in (("synchronous", False), ("asynchronous", True))
        if only in ("", name)
    }

    def note(case: str, **seconds: float) -> None:
        for column, value in seconds.items():
            found.setdefault(case, {}).setdefault(column, []).append(value)
            print(f"{case}: {column} {value:.2f}", flush=True)  # a time limit may come

    for repeat in range(repeats):
        if not only:
            measure_others(tensors, folder, note)
        for name, store in stores.items():
            begun = time.perf_counter()
            store.save(repeat, tensors, {}, TEXTS)
            blocked = time.perf_counter() - begun
            case = f"{name}, first save" if repeat == 0 and name == "asynchronous" else name
            note(case, blocked=blocked)
            steps = 0.0
            if name == "asynchronous":
                steps = steps_per_second(lambda: store._saving._thread.is_alive())  # noqa: B023
            store.wait()
            note(case, saved=time.perf_counter() - begun)
            if steps:
                limit = time.perf_counter() + 3
                alone = steps_per_second(lambda: time.perf_counter() < limit)  # noqa: B023
                note(case, slowed=1 - steps / alone)
            drop_cache(folder)
            path = store.path_of(repeat)
            note(name, loaded=timed(lambda: load_tensors(path, tensors)))  # noqa: B023
            shutil.rmtree(path)
    return found


def measure_others(
    tensors: dict[str, torch.Tensor], folder: Path, note: Callable[..., None]
) -> None:
    """A plain file as the floor, and torch.distributed.checkpoint."""
    note("plain file", saved=timed(lambda: write_plain(tensors, folder / "plain")))
    drop_cache(folder)
    note("plain file", loaded=timed(lambda: read_plain(folder / "plain")))
    (folder / "plain").unlink()
    with torch.no_grad():
        dcp_path = str(folder / "dcp")
        seconds = timed(lambda: dcp.save(tensors, checkpoint_id=dcp_path))
        note("torch's files", blocked=seconds, saved=seconds)
        drop_cache(folder)
        note(
            "torch's files",
            loaded=timed(lambda: dcp.load(tensors, checkpoint_id=dcp_path)),
        )
    shutil.rmtree(folder / "dcp")


def steps_per_second(while_: Callable[[], bool]) -> float:
    """Rate of a stand-in for training: matrix products in one thread less than there are cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads - 1))
    a = torch.rand(512, 512)
    begun, steps = time.perf_counter(), 0
    while while_():
        a @ a
        steps += 1
    torch.set_num_threads(threads)
    return steps / (time.perf_counter() - begun)


def timed(function: Callable[[], object]) -> float:
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def write_plain(tensors: dict[str, torch.Tensor], path: Path) -> None:
    with open(path, "wb", buffering=0) as handle:
        for tensor in tensors.values():
            data = tensor.reshape(-1).view(torch.uint8).numpy().data
            for begin in range(0, len(data), _PIECE):
                handle.write(data[begin : begin + _PIECE])
        os.fsync(handle.fileno())


def read_plain(path: Path) -> None:
    memory = bytearray(_PIECE)
    with open(path, "rb", buffering=0) as handle:
        while handle.readinto(memory):
            pass


def drop_cache(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def size_of(tensors: dict[str, torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def show(found: dict[str, dict[str, list[float]]], size: int) -> None:
    columns = {"blocked": "steps stand still", "saved": "saved after", "loaded": "loaded in"}
    print(f"{size / 1e9:.2f} GB; seconds: median (least to greatest)")
    print(f"{'':26}" + "".join(f"{title:>26}" for title in columns.values()) + "   steps slower by")
    for case, values in found.items():
        cells = [spread(values.get(column, []), "{:.2f}") for column in columns]
        slowed = spread(values.get("slowed", []), "{:.0%}")
        print(f"{case:26}" + "".join(f"{cell:>26}" for cell in cells) + f"   {slowed}")


def spread(values: list[float], form: str) -> str:
    if not values:
        return "–"
    middle, low, high = (
        form.format(v) for v in (statistics.median(values), min(values), max(values))
    )
    return f"{middle} ({low} to {high})" if len(values) > 1 else middle


if __name__ == "__main__":
    main()
