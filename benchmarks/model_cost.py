"""What the models cost beside a plain DNN of the same hidden sizes: training and inference.

Each model as its preset for the data set has it, on batches of that data set that are ready in
memory, all of one size; the DNN is one MLP of 400, 400, 400 over the same embeddings, with the same
optimisers. One process; the models take turns, REPEATS times. FLOPs are those of matrix products.

python benchmarks/model_cost.py --data DIR [--presets frappe] [--batch 10000] [--threads 2]
    [--precision float32] [--compile]
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# ruff: noqa: E402
import torch

from ctrdist.log import setup

setup(0)  # before torchrec is imported

from torch import Tensor, nn

from benchmarks.gpu import seconds_of, stepper
from ctrdist.batch import Output
from ctrdist.config.experiment import Experiment, experiment_of
from ctrdist.config.losses import LossConfig
from ctrdist.config.parse import parse
from ctrdist.data.loader import Loader
from ctrdist.data.manifest import open_dataset
from ctrdist.distributed.process_group import join_world, leave_world
from ctrdist.models.layers import MLP
from ctrdist.models.registry import config_class
from ctrdist.training.build import Engine, build_engine
from ctrdist.training.loop.prefetch import Prefetcher
from ctrdist.training.observe.throughput import count_flops

HIDDEN = (400, 400, 400)
MODELS = ("tf4ctr", "dlf", "transformer", "dual_attention")


class DNN(nn.Module):
    """One MLP over all embeddings."""

    def __init__(self, dim: int, num_fields: int, dropout: float) -> None:
        super().__init__()
        self.groups = {"tokens": dim}
        self.mlp = MLP(num_fields * dim, HIDDEN, 1, dropout=dropout)

    def forward(self, emb: Mapping[str, Tensor]) -> Output:
        """Logits of the batch."""
        return Output(self.mlp(emb["tokens"].flatten(1)).squeeze(1).float())


def experiment(name: str, args: argparse.Namespace) -> Experiment:
    """Of a preset; the transformer has DEA-R's without its two mechanisms."""
    model = "dual_attention" if name == "transformer" else name
    preset = ROOT / f"jobs/configs/{args.presets}_{model}.yaml"
    # what a search has chosen differs in its sizes: all are compared with 16 dimensions
    sizes = [preset.with_stem(f"{preset.stem}_{name}") for name in ("paper", "d16")]
    config = next(path for path in [*sizes, preset] if path.exists())
    given = ["--config", str(config), "--data", args.data, "--train.precision", args.precision]
    if args.compile:
        given += ["--train.compile", "true"]
    if name == "transformer":
        given += ["--model.combo", "false", "--model.filter", "none"]
    found = parse(experiment_of(model, config_class(model)), given)[0]
    return replace(found, loader=replace(found.loader, batch_size=args.batch, accumulate=1))


def engines(args: argparse.Namespace) -> dict[str, Engine]:
    """Name → its engine, the DNN first."""
    world, dataset = join_world(), open_dataset(args.data)
    built: dict[str, Engine] = {}
    plain = replace(experiment("tf4ctr", args), loss=LossConfig())
    config = plain.model
    tower = DNN(config.embedding_dim, dataset.schema.num_fields, config.dropout)
    with patch("ctrdist.training.build.build_tower", lambda *_: tower):
        built["DNN"] = build_engine(plain, dataset, world)
    for name in args.models:
        built[name] = build_engine(experiment(name, args), dataset, world)
    return built


def inference(engine: Engine, batches: list[Any]) -> Callable[[int], None]:
    """Evaluates some batches."""

    def run(steps: int) -> None:
        engine.model.eval()
        with torch.no_grad(), engine.autocast():
            for number in range(steps):
                engine.model(batches[number % len(batches)])
        engine.model.train()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--presets", default="frappe")
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument("--batch", type=int, default=10_000)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--compile", action="store_true", help="torch.compile of the towers")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    built = engines(args)
    first = built["DNN"]
    loader = Loader(first.dataset, "train", first.experiment.loader)
    batches = list(islice(loader, 4))
    device = first.world.device
    runs = {
        name: (stepper(engine, Prefetcher(engine), batches), inference(engine, batches))
        for name, engine in built.items()
    }
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in built}
    for _ in range(args.repeats):
        for name, both in runs.items():
            for found, run in zip(times[name], both, strict=True):
                found.append(1000 * seconds_of(run, device, args.seconds))
    base = [statistics.median(found) for found in times["DNN"]]
    flops = {name: count_flops(engine, batches[0]) for name, engine in built.items()}
    compiled = ", compiled" if args.compile else ""
    print(f"\nbatch {args.batch:,}, {args.precision}{compiled}, {args.threads} threads; medians")
    print(f"{'':16}{'training':>24}{'ratio':>7}{'inference':>24}{'ratio':>7}{'FLOPs':>7}")
    for name, found in times.items():
        cells = ""
        for values, of_dnn in zip(found, base, strict=True):
            middle = statistics.median(values)
            spread = f"{middle:.1f} ({min(values):.1f}-{max(values):.1f})"
            cells += f"{spread + ' ms':>24}{middle / of_dnn:7.2f}"
        print(f"{name:16}{cells}{flops[name] / flops['DNN']:7.2f}")
    leave_world()


if __name__ == "__main__":
    main()
