"""Searches settings with Ray Tune: random trials, of which ASHA ends the worst early."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import ray
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler
from ray.tune.search import BasicVariantGenerator

from cluster.session import connect
from ctrdist.config.experiment import Experiment
from ctrdist.config.parse import to_dict, with_settings
from ctrdist.models.registry import read_experiment
from ctrdist.tracking import end_killed

_RETRIES = 2
_GRACE_EPOCHS, _REDUCTION = 4, 3
"""ASHA: the fewest epochs of a trial; the best one in three of those at a rung continue."""
OBJECTIVE = "objective"
"""Key of the maximised value: train.monitor on the valid split, at the best epoch so far."""


@dataclass(frozen=True)
class Trial:
    """One draw of a search, as it ended."""

    run: str
    status: str
    """trained, ended early or failed."""
    settings: dict[str, Any]
    """Dotted name → drawn value."""
    result: dict[str, Any]
    """Last values that the trial reported; empty if it failed."""
    error: str

    @classmethod
    def of(cls, run: str, settings: Mapping[str, Any], result: Any, error: object) -> Trial:
        """Makes a trial from Ray Tune's values; error is None unless it failed."""
        if error is not None:
            lines = str(error).strip().splitlines() or ["it failed"]
            return cls(run, "failed", dict(settings), {}, lines[-1])
        status = "trained" if "steps" in result else "ended early"
        return cls(run, status, dict(settings), dict(result), "")


def search(
    experiment: Experiment,
    space: Mapping[str, Mapping[str, list[Any]]],
    *,
    trials: int,
    cores: int,
    parallel: int,
    seed: int,
    directory: str,
    show: Callable[[Trial], None],
) -> list[Trial]:
    """Trains `trials` draws of the space, each on one worker, or resumes the search.

    Args:
        experiment: complete, of one worker; the trials' names begin with its run_name.
        space: dotted name of a setting → how it is drawn: {choice: [a, b]}, {uniform: [low, high]},
            {loguniform: [low, high]} or {randint: [low, high]}, which excludes high.
        trials: total number of trials.
        cores: of each trial.
        parallel: most trials at a time; 0: limited by the cluster only.
        seed: of the draws.
        directory: local directory in which Ray Tune keeps the search.
        show: receives each trial as it ends.

    Returns:
        The trials, the best first and failed ones last.
    """
    connect()
    _TrialReporter.show = staticmethod(show)
    trainable = tune.with_resources(
        tune.with_parameters(_trial, base=to_dict(experiment), threads=cores, command=sys.argv),
        {"cpu": cores, "gpu": int(ray.cluster_resources().get("GPU", 0) > 0)},
    )
    if tune.Tuner.can_restore(directory):
        tuner = tune.Tuner.restore(directory, trainable, resume_unfinished=True)
    else:
        tuner = tune.Tuner(
            trainable,
            param_space={key: _drawn(*next(iter(how.items()))) for key, how in space.items()},
            tune_config=tune.TuneConfig(
                metric=OBJECTIVE,
                mode="max",
                num_samples=trials,
                max_concurrent_trials=parallel or None,
                search_alg=BasicVariantGenerator(random_state=seed),
                scheduler=_scheduler(experiment.train.epochs),
            ),
            run_config=tune.RunConfig(
                name=Path(directory).name,
                storage_path=str(Path(directory).parent),
                failure_config=tune.FailureConfig(max_failures=_RETRIES),
                callbacks=[_TrialReporter(experiment.run_name)],
                verbose=0,
            ),
        )
    return _best_first(experiment, tuner.fit())


def _scheduler(epochs: int) -> AsyncHyperBandScheduler:
    return AsyncHyperBandScheduler(
        time_attr="epoch",
        # beyond the last epoch, where ASHA would end a trial before its result
        max_t=max(epochs, _GRACE_EPOCHS) + 1,
        grace_period=_GRACE_EPOCHS,
        reduction_factor=_REDUCTION,
    )


def _best_first(experiment: Experiment, results: tune.ResultGrid) -> list[Trial]:
    """The trials; those that ended early are recorded as killed."""
    found = []
    for result in (results[index] for index in range(len(results))):
        metrics = dict(result.metrics or {})
        trial = Trial.of(
            f"{experiment.run_name}.{metrics.get('trial_id') or Path(result.path).name}",
            result.config or {},
            metrics,
            result.error,
        )
        if trial.status == "ended early":  # Ray Tune has killed its process
            run = f"{experiment.runs}/{trial.run}"
            end_killed(run, "others were better by then (ASHA)")
        found.append(trial)
    return sorted(found, key=lambda trial: -trial.result.get(OBJECTIVE, float("-inf")))


def _drawn(kind: str, values: list[Any]) -> Any:
    return tune.choice(values) if kind == "choice" else getattr(tune, kind)(*values)


class _TrialReporter(tune.Callback):
    """Reports trials as they end."""

    show: ClassVar[Callable[[Trial], None]]
    """Held by the class, because Ray Tune pickles its callbacks and a console cannot be pickled."""

    def __init__(self, name: str) -> None:
        self._name = name

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        self._report(trial, None)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        self._report(trial, trial.get_error() or "")

    def _report(self, trial: Any, error: Any) -> None:
        run = f"{self._name}.{trial.trial_id}"
        type(self).show(Trial.of(run, trial.config, trial.last_result, error))


def _trial(
    settings: dict[str, Any], base: dict[str, Any], threads: int, command: list[str]
) -> None:
    """Runs one trial in a process of its own; after a fault its run resumes from a checkpoint."""
    from ctrdist.distributed.process_group import join_world, leave_world
    from ctrdist.log import setup

    sys.argv = command
    setup(0)
    from ctrdist.training.loop.state import monitored
    from ctrdist.training.observe.messages import Evaluation, Message
    from ctrdist.training.run import train

    name = f"{base['run_name']}.{tune.get_context().get_trial_id()}"
    experiment = read_experiment(with_settings(base, {**settings, "run_name": name}), name)
    best = float("-inf")

    def emit(message: Message) -> None:
        nonlocal best
        if isinstance(message, Evaluation) and message.split == "valid":
            best = max(best, monitored(message.metrics, experiment.train.monitor))
            tune.report({OBJECTIVE: best, "epoch": message.epoch + 1})

    world = join_world()
    summary = train(experiment, world, emit, threads=threads)
    leave_world()
    kept = {key: summary[key] for key in ("steps", "train_seconds", "best_step", "checkpoint")}
    for split in ("valid", "test"):
        kept |= {f"{split}_{name}": value for name, value in summary[split].items()}
    tune.report({OBJECTIVE: best, "epoch": summary["epochs"], **kept})
