"""Searches settings with Ray Tune: random trials, of which ASHA ends the worst early."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import ray
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler
from ray.tune.search import BasicVariantGenerator

from cluster.session import connect
from ctrdist.config.experiment import Experiment
from ctrdist.config.parse import to_dict
from ctrdist.tracking import end_killed

_RETRIES = 2
_GRACE_EPOCHS, _REDUCTION = 4, 3
"""ASHA: the fewest epochs of a trial; the best one in three of those at a rung continue."""
OBJECTIVE = "objective"
"""Key of the maximised value: train.monitor on the valid split, at the best epoch so far."""


def search(
    experiment: Experiment,
    space: Mapping[str, Mapping[str, list[Any]]],
    *,
    trials: int,
    cores: int,
    parallel: int,
    seed: int,
    directory: str,
    show: Callable[[dict[str, Any]], None],
) -> list[dict[str, Any]]:
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
        show: receives {"kind": "trial", "run", "status", "settings", "result", "error"} as each
            trial ends.

    Returns:
        The trials as shown, the best first and failed ones last.
    """
    connect()
    _TrialReporter.show = staticmethod(show)
    trainable = tune.with_resources(
        tune.with_parameters(_trial, base=to_dict(experiment), threads=cores),
        {"cpu": cores, "gpu": _gpus()},
    )
    if tune.Tuner.can_restore(directory):
        tuner = tune.Tuner.restore(directory, trainable, resume_unfinished=True)
    else:
        path = Path(directory)
        tuner = tune.Tuner(
            trainable,
            param_space={key: _drawn(key, how) for key, how in space.items()},
            tune_config=tune.TuneConfig(
                metric=OBJECTIVE,
                mode="max",
                num_samples=trials,
                max_concurrent_trials=parallel or None,
                search_alg=BasicVariantGenerator(random_state=seed),
                scheduler=_scheduler(experiment.train.epochs),
            ),
            run_config=tune.RunConfig(
                name=path.name,
                storage_path=str(path.parent),
                failure_config=tune.FailureConfig(max_failures=_RETRIES),
                callbacks=[_TrialReporter(experiment.run_name)],
                verbose=0,
            ),
        )
    return _best_first(experiment, tuner.fit())


def _best_first(experiment: Experiment, results: tune.ResultGrid) -> list[dict[str, Any]]:
    """The trials; those that ended early are recorded as killed."""
    found = [_from_result(experiment, results[index]) for index in range(len(results))]
    for trial in found:
        if trial["status"] == "ended early":  # Ray Tune has killed its process
            end_killed(f"{experiment.runs}/{trial['run']}", "others were better by then (ASHA)")
    return sorted(found, key=lambda trial: -trial["result"].get(OBJECTIVE, float("-inf")))


def _scheduler(epochs: int) -> AsyncHyperBandScheduler:
    """ASHA over the epochs of a trial."""
    return AsyncHyperBandScheduler(
        time_attr="epoch",
        # beyond the last epoch, where ASHA would end a trial before its result
        max_t=max(epochs, _GRACE_EPOCHS) + 1,
        grace_period=_GRACE_EPOCHS,
        reduction_factor=_REDUCTION,
    )


def with_settings(values: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of nested values in which some, given by dotted names, are replaced."""
    changed = copy.deepcopy(values)
    for key, value in settings.items():
        *sections, last = key.split(".")
        inner = changed
        for section in sections:
            inner = inner[section]
        inner[last] = value
    return changed


def _gpus() -> int:
    return 1 if ray.cluster_resources().get("GPU", 0) else 0


def _drawn(key: str, how: Mapping[str, list[Any]]) -> Any:
    kind, values = next(iter(how.items()))
    if kind == "choice":
        return tune.choice(values)
    return getattr(tune, kind)(*values)


class _TrialReporter(tune.Callback):
    """Reports trials as they end."""

    show: ClassVar[Callable[[dict[str, Any]], None]]
    """Held by the class, because Ray Tune pickles its callbacks and a console cannot be pickled."""

    def __init__(self, name: str) -> None:
        self._name = name

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        result = dict(trial.last_result)
        type(self).show(_trial_message(self._name, trial.trial_id, trial.config, result, ""))

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        lines = str(trial.get_error() or "").strip().splitlines() or ["it failed"]
        type(self).show(_trial_message(self._name, trial.trial_id, trial.config, {}, lines[-1]))


def _trial_message(
    search_name: str, trial: str, settings: dict[str, Any], result: Any, error: str
) -> dict[str, Any]:
    status = "failed" if error else "trained" if "steps" in result else "ended early"
    return {
        "kind": "trial",
        "run": f"{search_name}.{trial}",
        "status": status,
        "settings": dict(settings),
        "result": dict(result),
        "error": error,
    }


def _from_result(experiment: Experiment, result: Any) -> dict[str, Any]:
    metrics = dict(result.metrics or {})
    error = str(result.error).strip().splitlines()[-1] if result.error else ""
    trial = metrics.get("trial_id") or Path(result.path).name
    return _trial_message(
        experiment.run_name, trial, result.config, {} if error else metrics, error
    )


def _trial(settings: dict[str, Any], base: dict[str, Any], threads: int) -> None:
    """Runs one trial in a process of its own; after a fault its run resumes from a checkpoint."""
    from ctrdist.config.experiment import experiment_of
    from ctrdist.config.parse import from_dict
    from ctrdist.distributed.process_group import join_world, leave_world
    from ctrdist.log import setup
    from ctrdist.models.registry import config_class

    setup(0)
    from ctrdist.training.loop.state import monitored
    from ctrdist.training.observe.messages import Evaluation, Message
    from ctrdist.training.run import train

    model = base["model_name"]
    values = with_settings(base, settings)
    values["run_name"] = f"{base['run_name']}.{tune.get_context().get_trial_id()}"
    experiment = from_dict(experiment_of(model, config_class(model)), values, values["run_name"])
    best = float("-inf")

    def emit(message: Message) -> None:
        nonlocal best
        if isinstance(message, Evaluation) and message.split == "valid":
            best = max(best, monitored(message.metrics, experiment.train.monitor))
            tune.report({OBJECTIVE: best, "epoch": message.epoch + 1})

    world = join_world()
    summary = train(experiment, world, emit, threads=threads)
    leave_world()
    tune.report({OBJECTIVE: best, "epoch": summary["epochs"], **_flat(summary)})


def _flat(summary: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: summary[key] for key in ("steps", "train_seconds", "best_step", "checkpoint")}
    for split in ("valid", "test"):
        kept |= {f"{split}_{name}": value for name, value in summary[split].items()}
    return kept
