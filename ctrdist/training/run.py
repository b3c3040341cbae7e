"""One worker's part of a run, from the config to the results.

It does not depend on Ray, nor on who started it.
"""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml

from ctrdist.checkpoint.store import checkpoint_directory, complete, load_tensors, read
from ctrdist.config.experiment import Experiment
from ctrdist.config.migrations import migrated
from ctrdist.data.manifest import Dataset, open_dataset
from ctrdist.distributed.process_group import World, run_on_main
from ctrdist.errors import ResourceError
from ctrdist.losses.objective import warn_of_loss
from ctrdist.models.registry import read_experiment
from ctrdist.schema import Schema
from ctrdist.tracking import RunTracker
from ctrdist.training.build import build_engine, check_same_data
from ctrdist.training.faults.memory import is_out_of_memory, out_of_memory_text
from ctrdist.training.faults.stopping import StopRequest
from ctrdist.training.faults.watchdog import Watchdog
from ctrdist.training.loop.evaluate import evaluate
from ctrdist.training.loop.folds import Choice, cross_validate
from ctrdist.training.loop.trainer import Trainer
from ctrdist.training.observe.diagnostics import Diagnostics
from ctrdist.training.observe.messages import Chosen, Done, Emit, Fold
from ctrdist.training.observe.observers import Observer, tolerated
from ctrdist.training.observe.recording import Reporting, Tracking


def train(
    experiment: Experiment,
    world: World,
    emit: Emit,
    stop: StopRequest | None = None,
    threads: int = 0,
) -> dict[str, Any]:
    """Trains, or resumes, the run that the experiment names; every rank calls it.

    Args:
        experiment: complete: data, run_name and runs are set.
        world: the workers.
        emit: receives rank 0's messages, and each rank's message that it hangs.
        stop: may ask the run to end between two steps.
        threads: number of this worker's threads; 0: its share of the machine's cores.

    Returns:
        The run's results, on rank 0 with run_id and tracking_uri.

    Raises:
        Interrupted: `stop` has asked, on this rank or another; a checkpoint was written.
        ResourceError: there is too little memory.
        UserError: the settings or the data cannot work, or gave no usable model.
    """
    use_cores(world, threads)
    run_dir = Path(experiment.runs) / experiment.run_name
    dataset: Dataset = run_on_main(lambda: open_dataset(experiment.data, experiment.label))
    observers = _observers_of(experiment, world, run_dir, emit)
    watchdog = Watchdog(experiment.faults.step_timeout_s, run_dir, world.rank, emit)
    table_bytes: int | None = None
    stop = stop or StopRequest()
    try:
        try:
            choice = _cross_validated(experiment, dataset, world, emit, stop, watchdog)
            engine = build_engine(experiment, dataset, world)
            table_bytes = engine.layout.bytes_per_rank[world.rank]
            trainer = Trainer(engine, run_dir, observers, stop, watchdog, choice)
        except BaseException as error:
            for observer in observers:
                with tolerated(type(observer).__name__):
                    observer.on_failure(error)
            raise
        summary = trainer.fit()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        rows = -(-experiment.loader.batch_size // world.size)
        text = out_of_memory_text(world.rank, str(error), table_bytes, rows)
        raise ResourceError(text) from error
    if world.is_main:
        emit(Done(summary=summary))
    return summary


def _cross_validated(
    experiment: Experiment,
    dataset: Dataset,
    world: World,
    emit: Emit,
    stop: StopRequest,
    watchdog: Watchdog,
) -> Choice | None:
    """The choice of cross-validation; None where the run has none, or had it in an earlier start.

    A run with a bound of steps is a trial, and has none.
    """
    train, run_dir = experiment.train, Path(experiment.runs) / experiment.run_name
    directory = checkpoint_directory(run_dir, experiment.run_name, experiment.checkpoint)
    if not train.folds or train.max_steps or run_on_main(lambda: bool(complete(directory))):
        return None
    tell: Emit = emit if world.is_main else lambda _: None
    with watchdog:
        choice = cross_validate(
            experiment,
            dataset,
            world,
            stop,
            begin_fold=lambda fold: tell(Fold(fold=fold, folds=train.folds)),
            beat=watchdog.beat,
        )
    tell(Chosen(**asdict(choice), rows=dataset.split("train").rows))
    return choice


def _observers_of(
    experiment: Experiment, world: World, run_dir: Path, emit: Emit
) -> list[Observer]:
    """The observers of a run on this rank; opens its tracker on rank 0."""
    observers: list[Observer] = []
    tracker: RunTracker | None = None
    if world.is_main:
        warn_of_loss(experiment.loss)
        checkpoints = checkpoint_directory(run_dir, experiment.run_name, experiment.checkpoint)
        resume = bool(complete(checkpoints))
        tracker = RunTracker(
            str(run_dir), experiment.runs, experiment.run_name, experiment.tracking, resume
        )
        observers = [Tracking(tracker, experiment.tracking.every_steps), Reporting(emit)]
    if experiment.diagnostics.enabled:
        # first, as Tracking closes the tracker at the end
        observers.insert(0, Diagnostics(experiment.diagnostics, tracker))
    return observers


def evaluate_checkpoint(
    experiment: Experiment,
    checkpoint: str,
    split: str,
    world: World,
    emit: Emit,
    threads: int = 0,
) -> dict[str, Any]:
    """Evaluates a step-<n> directory on a split; every rank calls it, with any number of workers.

    The experiment is the checkpoint's own, with data set to the data set to evaluate. The result
    has the metrics under the split's name, with checkpoint, step, data and its fingerprint.
    """
    use_cores(world, threads)
    dataset: Dataset = run_on_main(lambda: open_dataset(experiment.data, experiment.label))
    dataset.split(split)
    saved = run_on_main(lambda: read(checkpoint))
    check_same_data(saved, dataset.schema.to_json())
    engine = build_engine(experiment, dataset, world)
    load_tensors(saved.path, engine.model_tensors())
    metrics = evaluate(engine, split).metrics
    result = {
        "checkpoint": saved.path,
        "step": saved.step,
        "data": experiment.data,
        "data_fingerprint": dataset.manifest.fingerprint,
        "split": split,
        split: metrics,
    }
    if world.is_main:
        emit(Done(summary=result))
    return result


def experiment_of_checkpoint(path: str) -> tuple[Experiment, str, Schema]:
    """The experiment that a checkpoint was made with, its step directory and its schema.

    The path is a step-<n> directory, or a run's directory for its best checkpoint. If there is
    none, a CheckpointError is raised.
    """
    saved = read(path)
    values = migrated(yaml.safe_load(saved.texts.config))
    experiment = read_experiment(values, f"{saved.path}/config.yaml")
    schema = Schema.from_json(saved.texts.schema, f"{saved.path}/schema.json")
    return experiment, saved.path, schema


def use_cores(world: World, threads: int = 0) -> None:
    """Sets this worker's threads; 0: an equal share of the machine's cores for each worker."""
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads or max(1, cores // world.local_size))
