"""Training steps on a GPU: how fast, and how far from what the device can do.

39 fields, tables of ROWS × DIM, random ids ready in page-locked memory. Tower dlrm has 13 numeric
fields and 26 tables of 1 to 40 million rows instead, whatever ROWS is. Each case is timed three
times: the step as training takes it; its tables alone (lookup and update); its tower alone (forward
and backward). The tower's floating-point operations over the time are compared with a measured
matrix product (MFU), and the bytes that the tables must move with a measured copy. With --loader
the step is also fed by the loader, from Parquet files that are made first. A case that does not fit
into the memory is named, and the next one is run. Give several values to compare settings:

python benchmarks/gpu.py --tower dlf --pipeline none sparse_dist --precision float32 bfloat16
torchrun --nproc-per-node 2 benchmarks/gpu.py --batch 65536
python benchmarks/gpu.py --device cpu --rows 1000 --batch 512 --dim 16 --seconds 0.5
"""

import argparse
import gc
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# ruff: noqa: E402
import torch

from ctrdist.log import setup

setup(0)  # before torchrec is imported

from benchmarks.measuring.gpu_cases import (
    TOWERS,
    Case,
    batches_of,
    build,
    schema_of,
    write_rows,
)
from benchmarks.measuring.profiles import profiled
from ctrdist.batch import Batch
from ctrdist.config.experiment import LoaderConfig
from ctrdist.data.loader import Loader
from ctrdist.data.manifest import Dataset
from ctrdist.distributed.process_group import World, join_world, leave_world, sum_over_ranks
from ctrdist.errors import ConfigError
from ctrdist.losses.objective import training_loss_sum
from ctrdist.training.build import Engine
from ctrdist.training.faults.memory import is_out_of_memory
from ctrdist.training.loop.prefetch import Prefetcher
from ctrdist.training.loop.state import Progress
from ctrdist.training.loop.step import Step
from ctrdist.training.observe.observers import Observers
from ctrdist.training.observe.throughput import (
    Limits,
    StepClock,
    count_flops,
    measure_limits,
    table_bytes,
)


class Made:
    """Batches that are ready, in turn: as a prefetcher reads a loader."""

    def __init__(self, batches: list[Batch], steps: int) -> None:
        self._batches, self._steps = batches, steps

    def __iter__(self) -> Iterator[Any]:
        return (self._batches[n % len(self._batches)] for n in range(self._steps))

    def in_pairs(self) -> Iterator[tuple[Any, Any]]:
        """Each beside the one after it."""
        batches = list(self)
        return zip(batches, [*batches[1:], None], strict=True)


def rate_from_loader(
    engine: Engine, prefetcher: Prefetcher, dataset: Dataset, size: int, threads: int
) -> dict[str, float]:
    """Samples/s of training from Parquet files, and of reading them alone; first steps left out."""
    world = engine.world
    config = LoaderConfig(batch_size=size * world.size, threads=threads)

    def loader() -> Loader:
        return Loader(
            dataset,
            "train",
            config,
            seed=0,
            rank=world.rank,
            world_size=world.size,
            pinned=world.device.type == "cuda",
        )

    def rate(steps: Iterator[Any]) -> float:
        for _ in range(4):
            next(steps)
        synchronise(world.device)
        begun, count = time.perf_counter(), sum(1 for _ in steps)
        synchronise(world.device)
        return size * world.size * count / (time.perf_counter() - begun)

    step = step_of(engine, prefetcher)

    def training() -> Iterator[None]:
        for _, on_device in prefetcher.batches(loader()):
            step.take(on_device)
            step.progress.step += 1
            yield

    return {
        "loader_samples_per_s": rate(iter(loader())),
        "samples_per_s_from_loader": rate(training()),
    }


def step_of(engine: Engine, prefetcher: Prefetcher) -> Step:
    """Gives the trainer's own step for this engine."""

    def abort(*_: Any) -> Any:
        raise ArithmeticError("the loss is not finite")

    return Step(
        engine=engine,
        progress=Progress(),
        prefetcher=prefetcher,
        clock=StepClock(engine.world.device),
        observers=Observers(),
        abort=abort,
    )


def stepper(engine: Engine, prefetcher: Prefetcher, batches: list[Batch]) -> Callable[[int], None]:
    """Takes some steps over batches that are ready."""
    step = step_of(engine, prefetcher)

    def run(steps: int) -> None:
        for _, on_device in prefetcher.batches(Made(batches, steps)):
            step.take(on_device)
            step.progress.step += 1

    return run


def tables_alone(engine: Engine, batch: Batch) -> Callable[[int], None]:
    """Lookup and update, with a gradient that is ready."""
    model = engine.model.module

    def looked_up() -> list[torch.Tensor]:
        return [emb for emb in model.embed(batch).values() if emb.requires_grad]

    grads = [torch.full_like(emb, 1e-6) for emb in looked_up()]

    def run(steps: int) -> None:
        for _ in range(steps):
            torch.autograd.backward(looked_up(), grads)

    return run


def tower_alone(engine: Engine, batch: Batch) -> Callable[[int], None]:
    """Forward and backward of the tower over embeddings that are ready."""
    emb = {
        group: looked_up.detach().requires_grad_(looked_up.is_floating_point())
        for group, looked_up in engine.model.module.embed(batch).items()
    }

    def run(steps: int) -> None:
        for _ in range(steps):
            with engine.autocast():
                output = engine.tower(emb)
                loss = training_loss_sum(engine.experiment.loss, output, batch.label_B)
            loss.backward()

    return run


def seconds_of(run: Callable[[int], None], device: torch.device, seconds: float) -> float:
    """Seconds of one step, after a warm-up; every rank calls it, and takes the same steps."""

    def timed(steps: int) -> float:
        synchronise(device)
        begun = time.perf_counter()
        run(steps)
        synchronise(device)
        return (time.perf_counter() - begun) / steps

    run(4)
    pace = torch.tensor([timed(4), 1.0], dtype=torch.float64, device=device)
    mean, ranks = sum_over_ranks(pace).tolist()
    return timed(max(4, int(seconds / (mean / ranks))))


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measured(
    built: tuple[Engine, Prefetcher], size: int, args: argparse.Namespace, limits: Limits
) -> dict[str, float]:
    """The figures of a case at a batch size; prints its profile."""
    engine, prefetcher = built
    device = engine.world.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    batches = batches_of(engine, size, args.ids == "zipf")
    on_device = batches[0].to(device)
    flops, moved = 3.0 * count_flops(engine, on_device), table_bytes(engine, on_device)
    run = stepper(engine, prefetcher, batches)
    step = seconds_of(run, device, args.seconds)
    if args.profile:
        table = profiled(run, device, args.profile)
        if engine.world.is_main:
            print(table)
    tables = seconds_of(tables_alone(engine, on_device), device, args.seconds)
    tower = seconds_of(tower_alone(engine, on_device), device, args.seconds)
    fed: dict[str, float] = {}
    if args.loader:
        with tempfile.TemporaryDirectory() as folder:
            dataset = write_rows(Path(folder), engine.dataset.schema, args.loader)
            fed = rate_from_loader(engine, prefetcher, dataset, size, args.threads)
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0
    return {
        "samples_per_s": size * engine.world.size / step,
        **fed,
        "step_ms": 1000 * step,
        "tables_ms": 1000 * tables,
        "tower_ms": 1000 * tower,
        "mfu_of_step": flops / step / limits.flops_per_s,
        "mfu_of_tower": flops / tower / limits.flops_per_s,
        "tables_gb_per_s": moved / tables / 1e9,
        "share_of_copy": moved / tables / limits.bytes_per_s,
        "peak_gib": peak,
        "tower_gflops_per_step": flops / 1e9,
        "table_gb_per_step": moved / 1e9,
    }


def attempt(work: Callable[[], Any], alone: bool) -> Any:
    """Returns the result of work(), or the reason in a line where memory does not suffice."""
    try:
        return work()
    except ConfigError as error:  # the planner, before anything is allocated
        return f"refused: {str(error).splitlines()[0][:150]}"
    except Exception as error:
        if not alone:  # the other ranks would wait for this one
            raise
        kind = "out of memory" if is_out_of_memory(error) else f"failed: {type(error).__name__}"
        return f"{kind}: {str(error).splitlines()[0][:150] if str(error) else ''}"


def free(device: torch.device) -> None:
    """Gives memory back to the device for the next case."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def show(case: Case, size: int, found: Any) -> None:
    name = (
        f"{case.tower}, dim {case.dim}, batch {size:,}, {case.precision}, {case.tables}, pipeline "
        f"{case.pipeline}{'' if case.compile == 'no' else f', compiled ({case.compile})'}"
        f"{'' if case.kernels == 'pytorch' else ', kernels of our own'}"
    )
    if isinstance(found, str):
        print(f"{name}: {found}", flush=True)
        return
    print(
        f"{name}:\n  {found['samples_per_s']:,.0f} samples/s, {found['step_ms']:.2f} ms a step; "
        f"MFU {100 * found['mfu_of_step']:.1f}%\n"
        f"  tower alone {found['tower_ms']:.2f} ms, MFU {100 * found['mfu_of_tower']:.1f}%; "
        f"tables alone {found['tables_ms']:.2f} ms, {found['tables_gb_per_s']:.0f} GB/s, "
        f"{100 * found['share_of_copy']:.0f}% of a copy; peak {found['peak_gib']:.1f} GiB",
        flush=True,
    )
    if "loader_samples_per_s" in found:
        fed = found["samples_per_s_from_loader"]
        print(
            f"  from the loader {fed:,.0f} samples/s, {fed / found['samples_per_s']:.2f} of it; "
            f"the loader alone {found['loader_samples_per_s']:,.0f}",
            flush=True,
        )


def run_case(
    case: Case, args: argparse.Namespace, limits: Limits, world: World
) -> list[dict[str, Any]]:
    """Runs a case at each batch size, and shows each as soon as it is measured."""
    settings = json.loads(args.settings).get(case.tower, {})
    alone = world.size == 1
    schema = schema_of(case, args.rows, args.scale)
    built = attempt(partial(build, case, schema, settings, world), alone)
    results = []
    for size in args.batch:
        found = built
        if not isinstance(built, str):
            found = attempt(partial(measured, built, size, args, limits), alone)
        free(world.device)
        if world.is_main:
            show(case, size, found)
        kept = {"failed": found} if isinstance(found, str) else found
        results.append({**asdict(case), "batch": size, **kept})
        if args.out and world.is_main:  # each as it comes: a lease may end
            with Path(args.out).open("a") as file:
                file.write(json.dumps(results[-1]) + "\n")
    return results


def run_all(args: argparse.Namespace, world: World) -> list[dict[str, Any]]:
    """Runs all combinations of the given settings."""
    limits = {}
    for precision in args.precision:
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        dtype = torch.float32 if precision == "tf32" else getattr(torch, precision)
        limits[precision] = measure_limits(world.device, dtype)
        if world.is_main:
            print(
                f"a {precision} matrix product makes {limits[precision].flops_per_s / 1e12:.2f} "
                f"TFLOP/s here, a copy {limits[precision].bytes_per_s / 1e9:.0f} GB/s"
            )
    names = ("tower", "dim", "precision", "pipeline", "compile", "kernels", "tables")
    results = []
    for values in itertools.product(*(getattr(args, name) for name in names)):
        case = Case(**dict(zip(names, values, strict=True)))
        results += run_case(case, args, limits[case.precision], world)
        free(world.device)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], help="the GPU, where there is one")
    parser.add_argument("--rows", type=int, default=100_000, help="of each table")
    parser.add_argument("--batch", type=int, nargs="+", default=[8192, 65536], help="per worker")
    parser.add_argument("--tower", nargs="+", choices=TOWERS, default=list(TOWERS))
    parser.add_argument("--dim", type=int, nargs="+", default=[16, 128])
    parser.add_argument(
        "--precision", nargs="+", default=["bfloat16"], help="float32 tf32 bfloat16"
    )
    parser.add_argument("--pipeline", nargs="+", default=["auto"], help="auto none sparse_dist")
    parser.add_argument("--compile", nargs="+", default=["no"], help="no yes graphs")
    parser.add_argument("--kernels", nargs="+", default=["pytorch"], help="pytorch triton")
    parser.add_argument(
        "--tables", nargs="+", default=["adagrad"], help="optimisers; adam is not fused"
    )
    parser.add_argument("--settings", default="{}", help='JSON: {"dlf": {"num_layers": 2}}')
    parser.add_argument("--ids", choices=["uniform", "zipf"], default="uniform")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each timing")
    parser.add_argument("--profile", type=int, default=12, help="rows of a profile; 0: none")
    parser.add_argument("--scale", type=float, default=1.0, help="of the rows of dlrm's tables")
    parser.add_argument("--loader", type=int, default=0, help="rows to train on from Parquet")
    parser.add_argument("--threads", type=int, default=8, help="of the loader")
    parser.add_argument("--out", default="", help="file for the figures, a JSON line for each")
    args = parser.parse_args()
    if args.device is None and not torch.cuda.is_available():
        print("There is no GPU; --device cpu runs this on the CPU, see the first lines of the file")
        return
    world = join_world(torch.device("cpu") if args.device == "cpu" else None)
    if world.is_main:
        on = "CPU" if world.device.type == "cpu" else torch.cuda.get_device_name(world.device)
        print(f"{on}, {world.size} worker(s), torch {torch.__version__}, {args.rows:,} rows × 39")
    run_all(args, world)
    leave_world()


if __name__ == "__main__":
    main()
