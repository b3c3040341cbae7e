"""Training from the loader beside the same training on one frozen batch.

A data set in Criteo's shape (13 numeric and 26 categorical fields), dim 16, 3 × 400, batch 4096 in
all, bf16, Adagrad, shuffled. Both take turns in one process group: so many steps of the one, so
many of the other.

python benchmarks/end_to_end.py [--data DIR] [--workers 1 2] [--steps 200] [--repeats 5]
"""

import argparse
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from benchmarks.loader import make_data  # noqa: E402
from benchmarks.train_step import BATCH, start_workers, trainable  # noqa: E402
from ctrdist.config.experiment import LoaderConfig  # noqa: E402
from ctrdist.data.loader import Loader  # noqa: E402
from ctrdist.data.manifest import open_dataset  # noqa: E402


def run(data: str, steps: int, repeats: int) -> dict[str, list[float]]:
    """Samples/s of each turn."""
    dataset = open_dataset(data)
    world, train = trainable(dataset.schema, bf16=True, naive=False, tower="mlp")
    loader = Loader(
        dataset,
        "train",
        LoaderConfig(batch_size=BATCH),
        rank=world.rank,
        world_size=world.size,
    )
    batches = iter(loader)
    frozen = next(batches)
    for _ in range(10):
        train(frozen)
    found: dict[str, list[float]] = {"frozen batch": [], "loader": []}
    for _ in range(repeats):
        for name in found:
            torch.distributed.barrier()
            begun = time.perf_counter()
            for _ in range(steps):
                train(next(batches) if name == "loader" else frozen)
            found[name].append(BATCH * steps / (time.perf_counter() - begun))
    batches.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="", help="a preprocessed data set; empty: one is made")
    parser.add_argument("--rows", type=int, default=8_000_000, help="of the made data set")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--threads", type=int, default=2, help="of all workers")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = args.data or make_data(Path(folder), args.rows)
        for workers in args.workers:
            work = partial(run, data, args.steps, args.repeats)
            found = start_workers(work, workers, args.threads // workers)[0]
            print(f"{workers} workers of {args.threads // workers} threads")
            for name, rates in found.items():
                print(
                    f"  {name:14}{statistics.median(rates):10,.0f} samples/s "
                    f"({min(rates):,.0f} to {max(rates):,.0f})"
                )
            shares = [a / b for a, b in zip(found["loader"], found["frozen batch"], strict=True)]
            print(f"  from the loader {100 * statistics.median(shares):.0f} % of the frozen batch")


if __name__ == "__main__":
    main()
