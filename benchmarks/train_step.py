"""Training steps beside other ways to train the same model on CPU, in one run.

39 fields, tables of ROWS × 16, tower 3 × 400, batch 4096 in all; ids uniform or Zipf(1.2). The
batches are ready in memory, so that nothing but the step is timed. Each way gets a process of its
own (or two), on as many threads in all; the ways take turns, REPEATS times.

- dense Adam: torch.nn.Embedding and torch.optim.Adam over whole tables
- SparseAdam: torch.nn.Embedding(sparse=True), SparseAdam for tables, Adam for the tower
- naive DMP: TorchRec's DistributedModelParallel as its tutorials show it, fused Adagrad by FBGEMM
- ctrdist: our engine, with one worker on all threads, or one worker for each thread

python benchmarks/train_step.py [--rows 100000] [--threads 2] [--repeats 3] [--seconds 6]
"""

import argparse
import json
import multiprocessing
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

FIELDS, DIM, BATCH, HIDDEN = 39, 16, 4096, (400, 400, 400)
MADE = 8  # batches that are made, and then taken in turn


class MLP(nn.Module):
    """Three hidden layers over the joined embeddings."""

    def __init__(self, dim: int = DIM) -> None:
        super().__init__()
        self.groups = {"tokens": dim}
        layers: list[nn.Module] = []
        width = FIELDS * dim
        for hidden in HIDDEN:
            layers += [nn.Linear(width, hidden), nn.ReLU()]
            width = hidden
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, emb: Mapping[str, Tensor]) -> Any:
        """Logits of the batch."""
        from ctrdist.batch import Output

        return Output(self.layers(emb["tokens"].flatten(1)).squeeze(1))


class DCNv2(nn.Module):
    """Three full cross layers beside three hidden ones (Wang et al. 2021, parallel)."""

    def __init__(self, dim: int = DIM) -> None:
        super().__init__()
        self.groups = {"tokens": dim}
        width = FIELDS * dim
        self.cross = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.deep = MLP(dim).layers[:-1]
        self.output = nn.Linear(width + HIDDEN[-1], 1)

    def forward(self, emb: Mapping[str, Tensor]) -> Any:
        """Logits of the batch."""
        from ctrdist.batch import Output

        x0 = x = emb["tokens"].flatten(1)
        for layer in self.cross:
            x = x + x0 * layer(x)
        return Output(self.output(torch.cat([x, self.deep(x0)], 1)).squeeze(1))


def tower_of(name: str, dim: int = DIM) -> nn.Module:
    """A tower over FIELDS tokens: mlp, dcnv2 or dlf."""
    from ctrdist.models.dlf.settings import DLFConfig
    from ctrdist.models.registry import build_tower

    own: dict[str, Callable[[int], nn.Module]] = {"mlp": MLP, "dcnv2": DCNv2}
    return own[name](dim) if name in own else build_tower(name, DLFConfig(), FIELDS)


def ids_of(rows: int, zipf: bool, seed: int, batch: int = BATCH) -> np.ndarray:
    """(fields, batch) ids."""
    rng = np.random.default_rng(seed)
    if not zipf:
        return rng.integers(0, rows, (FIELDS, batch))
    drawn = rng.zipf(1.2, (FIELDS, batch)) - 1
    return np.where(drawn < rows, drawn, rng.integers(0, rows, drawn.shape))


def labels_of(seed: int, batch: int = BATCH) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 2, batch)).float()


def plain(rows: int, zipf: bool, sparse: bool) -> Callable[[int], None]:
    """torch.nn.Embedding and torch.optim."""
    tables = nn.ModuleList(nn.Embedding(rows, DIM, sparse=sparse) for _ in range(FIELDS))
    tower = MLP()
    made = [(torch.from_numpy(ids_of(rows, zipf, s)), labels_of(s)) for s in range(MADE)]
    optimizers: list[torch.optim.Optimizer]
    if sparse:
        optimizers = [
            torch.optim.SparseAdam(list(tables.parameters()), lr=1e-3),
            torch.optim.Adam(tower.parameters(), lr=1e-3),
        ]
    else:
        optimizers = [torch.optim.Adam([*tables.parameters(), *tower.parameters()], lr=1e-3)]

    def step(number: int) -> None:
        ids_FB, label_B = made[number % MADE]
        emb = torch.stack([t(i) for t, i in zip(tables, ids_FB, strict=True)], 1)
        logits_B = tower({"tokens": emb}).logits_B
        loss = nn.functional.binary_cross_entropy_with_logits(logits_B, label_B)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()

    return step


def engine(
    rows: int, zipf: bool, *, bf16: bool, naive: bool = False, tower: str = "mlp"
) -> Callable[[int], None]:
    """Our engine; naive leaves out what ctrdist adds to TorchRec on a CPU."""
    world, train = trainable(schema_of(rows), bf16=bf16, naive=naive, tower=tower)
    share = slice(world.rank * BATCH // world.size, (world.rank + 1) * BATCH // world.size)
    made = [
        batch_of(ids_of(rows, zipf, seed)[:, share], labels_of(seed)[share], BATCH)
        for seed in range(MADE)
    ]
    return lambda number: train(made[number % MADE])


def schema_of(rows: int) -> Any:
    """FIELDS categorical fields of so many ids each."""
    from ctrdist.schema import CategoricalField, Schema

    fields = (CategoricalField(name=f"C{i}", vocabulary_size=rows) for i in range(FIELDS))
    return Schema(name="made", numeric=(), categorical=tuple(fields))


def batch_of(ids: np.ndarray, label_B: Tensor, global_size: int) -> Any:
    """The batch of (fields, B) ids; global_size: rows of all workers."""
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    from ctrdist.batch import Batch

    size = len(label_B)
    sparse = KeyedJaggedTensor(
        [f"C{i}" for i in range(FIELDS)],
        torch.from_numpy(np.ascontiguousarray(ids).reshape(-1).astype(np.int32)),
        lengths=torch.ones(FIELDS * size, dtype=torch.int32),
        offsets=torch.arange(FIELDS * size + 1, dtype=torch.int32),
        stride=size,
    )
    return Batch(
        numeric_BK=torch.empty(size, 0),
        sparse=sparse,
        label_B=label_B,
        row_B=torch.arange(size),
        global_size=global_size,
    )


def trainable(schema: Any, *, bf16: bool, naive: bool, tower: str) -> tuple[Any, Callable]:
    """The world, and what takes one step on a batch."""
    from ctrdist.config.experiment import ShardingConfig
    from ctrdist.config.optimizers import OptimConfig, TableOptimConfig
    from ctrdist.distributed.process_group import join_world
    from ctrdist.log import setup
    from ctrdist.losses.objective import log_loss_sum
    from ctrdist.models.ctr import CTRModel
    from ctrdist.optim.fused import fuse_table_optimizer
    from ctrdist.optim.optimizers import Optimizers
    from ctrdist.sharding.batch_norm import synchronise_batch_norm
    from ctrdist.sharding.plan import plan_tables
    from ctrdist.sharding.shard import shard_model
    from ctrdist.training.build import keep_freed_memory

    setup(0)
    if not naive:
        keep_freed_memory()
    world = join_world()
    optim = OptimConfig(tables=TableOptimConfig(name="adagrad", lr=0.01), max_grad_norm=0.0)
    torch.manual_seed(0)
    model = CTRModel(schema, tower_of(tower))
    if world.size > 1:
        synchronise_batch_norm(model.tower)
    fuse_table_optimizer(model, optim)
    sharding = ShardingConfig(
        default="table_wise" if world.size == 1 else "row_wise",
        cpu_kernel=not naive,
        shared_memory=not naive,
    )
    planned = plan_tables(
        model,
        sharding,
        optim,
        world_size=world.size,
        local_size=world.local_size,
        device="cpu",
    )
    sharded = shard_model(model, planned.plan, sharding, optim, world, seed=0, init_std=0.01)
    optimizers = Optimizers(sharded, optim)

    def train(batch: Any) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            output = sharded(batch)
            loss = log_loss_sum(output.logits_B, batch.label_B)
        optimizers.zero_grad()
        (loss * (world.size / batch.global_size)).backward()
        optimizers.step()

    return world, train


WAYS: dict[str, tuple[Callable[..., Callable[[int], None]], dict[str, bool], bool]] = {
    "dense Adam": (plain, {"sparse": False}, False),
    "SparseAdam": (plain, {"sparse": True}, False),
    "naive DMP": (engine, {"bf16": False, "naive": True}, False),
    "naive DMP, bf16": (engine, {"bf16": True, "naive": True}, False),
    "ctrdist": (engine, {"bf16": False}, False),
    "ctrdist, bf16": (engine, {"bf16": True}, False),
    "ctrdist, worker per thread": (engine, {"bf16": False}, True),
    "ctrdist, worker per thread, bf16": (engine, {"bf16": True}, True),
}
"""Name → what builds the step, its settings, whether each thread is a worker."""


def run_rank(
    work: Callable[[], Any], threads: int, env: dict[str, str], out: multiprocessing.Queue
) -> None:
    """One process."""
    os.environ.update(env)
    torch.set_num_threads(threads)
    out.put((int(env["RANK"]), work()))


def start_workers(work: Callable[[], Any], workers: int, threads: int) -> list[Any]:
    """What work() returns in each of some processes of some threads each; work can be pickled."""
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    world = {"WORLD_SIZE": str(workers), "LOCAL_WORLD_SIZE": str(workers), "MASTER_PORT": port}
    world["MASTER_ADDR"] = "127.0.0.1"
    processes = [
        context.Process(
            target=run_rank,
            args=(work, threads, {**world, "RANK": str(r), "LOCAL_RANK": str(r)}, out),
        )
        for r in range(workers)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    failed = [process.exitcode for process in processes if process.exitcode]
    if failed:
        raise SystemExit(f"a process ended with {failed[0]}; its error stands above")
    return [result for _, result in sorted(out.get() for _ in processes)]


def measure(
    build: Callable[[], Callable[[int], None]], workers: int, threads: int, seconds: float
) -> float:
    """Samples/s of some workers of some threads each.

    Args:
        build: picklable; gives the step.
        workers: processes.
        threads: of each.
        seconds: that are timed.
    """
    return min(start_workers(partial(rate_of, build, seconds), workers, threads))


def rate_of(build: Callable[[], Callable[[int], None]], seconds: float) -> float:
    """Samples/s in this process: builds, warms up, then steps until the time is over."""
    step = build()
    for number in range(4):
        step(number)
    begun = time.perf_counter()
    for number in range(4):
        step(number)
    pace = (time.perf_counter() - begun) / 4
    # the same number of steps on all ranks, about `seconds` long
    total = torch.tensor(max(4, int(seconds / pace)))
    if torch.distributed.is_initialized():
        torch.distributed.broadcast(total, 0)
    begun = time.perf_counter()
    for number in range(int(total)):
        step(number)
    return BATCH * int(total) / (time.perf_counter() - begun)


def show_rates(rates: Mapping[str, Sequence[float]]) -> None:
    """A table of samples/s: median, least, most, and the median over the first way's."""
    base = statistics.median(next(iter(rates.values())))
    print(f"{'':34}{'samples/s':>10}{'least':>9}{'most':>9}{'ratio':>8}")
    for way, found in rates.items():
        middle = statistics.median(found)
        print(f"{way:34}{middle:10,.0f}{min(found):9,.0f}{max(found):9,.0f}{middle / base:8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--ways", nargs="*", default=list(WAYS))
    parser.add_argument("--ids", nargs="*", default=["uniform", "zipf"])
    parser.add_argument("--out", default="", help="JSON file for the figures")
    args = parser.parse_args()
    figures: dict[str, dict[str, list[float]]] = {}
    for ids in args.ids:
        rates: dict[str, list[float]] = {way: [] for way in args.ways}
        for _ in range(args.repeats):
            for way in args.ways:
                build, settings, many = WAYS[way]
                step = partial(build, args.rows, ids == "zipf", **settings)
                workers = args.threads if many else 1
                rates[way].append(measure(step, workers, args.threads // workers, args.seconds))
        figures[ids] = rates
        print(f"\n{ids} ids, {FIELDS} tables of {args.rows:,} × {DIM}, {args.threads} threads")
        show_rates(rates)
    if args.out:
        Path(args.out).write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
