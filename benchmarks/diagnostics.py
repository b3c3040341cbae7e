"""The cost of diagnostics: their share of a step's time, and seconds per epoch and run.

One worker on one thread trains the registry's models, with their default settings, on a data set in
Criteo's shape. Each call that diagnostics get is timed, beside the steps themselves: by the time
that the thread computes, so that other processes on the machine do not count. A share is that of
diagnostics over that of steps, at the default settings.

python benchmarks/diagnostics.py [--data DIR] [--models tf4ctr dlf] [--batch 4096] [--steps 60]
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from benchmarks.loader import make_data  # noqa: E402
from ctrdist.config.experiment import (  # noqa: E402
    CheckpointConfig,
    Experiment,
    LoaderConfig,
    TrackingConfig,
    TrainConfig,
)
from ctrdist.config.optimizers import OptimConfig, TableOptimConfig  # noqa: E402
from ctrdist.data.manifest import open_dataset  # noqa: E402
from ctrdist.distributed.process_group import join_world, leave_world  # noqa: E402
from ctrdist.log import setup  # noqa: E402
from ctrdist.models.registry import config_class  # noqa: E402
from ctrdist.tracking import RunTracker  # noqa: E402
from ctrdist.training.build import build_engine  # noqa: E402
from ctrdist.training.loop.trainer import Trainer  # noqa: E402
from ctrdist.training.observe.diagnostics import Diagnostics  # noqa: E402
from ctrdist.training.observe.recording import Tracking  # noqa: E402

KINDS = {
    "_watch_rows": "steps",
    "_watch_lookups": "steps",
    "_keep_square": "steps",
    "_watch_gradients": "steps",
    "on_step": "steps",
    "on_epoch_end": "epoch end",
    "on_evaluate": "epoch end",
    "on_end": "run end",
}


def timed(method: Callable[..., Any], spent: dict[str, float], kind: str) -> Callable[..., Any]:
    """The method, with the seconds that its thread computes added up."""

    def call(*args: Any, **kwargs: Any) -> Any:
        evaluates = method.__name__ == "_watch_rows" and not torch.is_grad_enabled()
        key = "epoch end" if evaluates else kind
        begun = time.thread_time()
        try:
            return method(*args, **kwargs)
        finally:
            spent[key] = spent.get(key, 0.0) + time.thread_time() - begun

    return call


def measure(model: str, data: str, run_dir: str, batch: int, steps: int) -> dict[str, float]:
    """Seconds of the steps and of diagnostics, by kind."""
    experiment = Experiment(
        model_name=model,
        data=data,
        run_name=model,
        model=config_class(model)(),
        loader=LoaderConfig(batch_size=batch),
        optim=OptimConfig(tables=TableOptimConfig(name="adagrad", lr=0.01)),
        train=TrainConfig(max_steps=steps),
        checkpoint=CheckpointConfig(every_steps=0),
        tracking=TrackingConfig(mlflow=False),
    )
    engine = build_engine(experiment, open_dataset(data), join_world(torch.device("cpu")))
    tracker = RunTracker(run_dir, run_dir, model, experiment.tracking, False)
    diagnostics: Any = Diagnostics(experiment.diagnostics, tracker)
    spent: dict[str, float] = {}
    for name, kind in KINDS.items():
        setattr(diagnostics, name, timed(getattr(diagnostics, name), spent, kind))
    observers = [diagnostics, Tracking(tracker, experiment.tracking.every_steps)]
    trainer = Trainer(engine, run_dir, observers)
    trainer.step.take = timed(trainer.step.take, spent, "training")  # type: ignore[method-assign]
    trainer.fit()
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="", help="a preprocessed data set; empty: one is made")
    parser.add_argument("--rows", type=int, default=300_000, help="of the made data set")
    parser.add_argument("--models", nargs="*", default=["tf4ctr", "dlf", "transformer"])
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=60)
    args = parser.parse_args()
    setup(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = args.data or make_data(Path(folder), args.rows)
        for model in args.models:
            spent = measure(model, data, f"{folder}/{model}", args.batch, args.steps)
            share = spent["steps"] / (spent["training"] - spent["steps"])
            print(
                f"{model:14}step {1000 * spent['training'] / args.steps:8.1f} ms, diagnostics "
                f"{100 * share:.2f}% of it; {spent['epoch end']:.2f} s at the epoch's end, "
                f"{spent['run end']:.2f} s at the run's"
            )
    leave_world()


if __name__ == "__main__":
    main()
