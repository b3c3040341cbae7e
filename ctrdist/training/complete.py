"""Completes and checks an experiment before any worker is started."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ctrdist.config.auto import Facts, resolve
from ctrdist.config.experiment import Experiment
from ctrdist.config.migrations import migrated
from ctrdist.config.parse import setting, to_dict, with_settings
from ctrdist.errors import ConfigError
from ctrdist.models.registry import check_loss, read_experiment

if TYPE_CHECKING:
    from ctrdist.data.manifest import Dataset, Split

_FEW = 200
"""Rows of the rarer label in valid below which its metrics depend on chance."""


def complete(experiment: Experiment) -> Experiment:
    """Checks an experiment, and names the run if it has no name.

    Raises:
        ConfigError: data or a setting is missing or cannot work.
        DataError: there is no data set.
    """
    if not experiment.data:
        raise ConfigError(
            "--data DIR is missing: the directory that jobs/preprocess.py wrote, local or s3://."
        )
    _check_workers(experiment)
    _check_optimisers(experiment)
    check_loss(experiment.loss, experiment.model_name)
    name = experiment.run_name
    if "/" in name or name.startswith("."):
        raise ConfigError(
            f"--run-name {name}: a plain name without '/' that does not begin with '.'."
        )
    # here, because their imports take time that --help must not wait for
    from ctrdist.data.manifest import open_dataset
    from ctrdist.tracking.address import check_address

    if experiment.tracking.mlflow:
        check_address(os.environ.get("MLFLOW_TRACKING_URI", ""))
    dataset = open_dataset(experiment.data, experiment.label)
    if dataset.label_column == dataset.schema.label:
        experiment = replace(experiment, label="")
    if dataset.weighted:
        _ = dataset.mean_weight  # refuses weights that are all 0
    started = time.strftime("%Y%m%d-%H%M%S")
    name = name or f"{experiment.model_name}-{dataset.schema.name}-{started}"
    named = replace(experiment, run_name=name)
    settings = _saved(named) or resolve(
        named.model_name, named.auto, _facts(dataset, named.workers)
    )
    settings |= _monitor(dataset) | _kept(dataset)
    resolved = read_experiment(with_settings(to_dict(named), settings), "automatic settings")
    _check_batch_norm(resolved, dataset.split("train").rows)
    _check_wide(resolved, dataset)
    return resolved


def _check_wide(experiment: Experiment, dataset: "Dataset") -> None:
    """Refuses a wide part without rows to choose the blend by: the tower would have no effect."""
    valid, folds = dataset.manifest.splits.get("valid"), experiment.train.folds
    if folds and (folds < 2 or not experiment.model.wide):
        raise ConfigError(
            f"train.folds = {folds}: 2 or more, with model.wide true; or 0, and valid chooses the "
            "epoch."
        )
    if experiment.model.wide and (valid is None or not valid.rows):
        raise ConfigError(
            f"model.wide = true needs a valid split, and {experiment.data} has none: the share of "
            "the tower in the model is chosen there. Set model.wide false, or change `split` in "
            "the data-set YAML and preprocess again."
        )


def _monitor(dataset: "Dataset") -> dict[str, Any]:
    """The monitor in place of one that valid does not define, as all its labels are the same."""
    valid = dataset.manifest.splits.get("valid")
    alike = valid is not None and valid.rows and valid.positives in (0, valid.rows)
    return {"train.monitor": "logloss"} if alike else {}


def _kept(dataset: "Dataset") -> dict[str, Any]:
    """The share of rows with label 0 that was drawn for training, where not all are there."""
    kept = dataset.split("train").negatives_kept
    return {} if kept == 1 else {"train.negatives_kept": kept}


def remarks(experiment: Experiment) -> list[str]:
    """Returns what a person should know before a complete experiment is trained, line by line."""
    from ctrdist.data.manifest import open_dataset

    lines = []
    if experiment.auto:
        values = to_dict(experiment)
        shown = [f"{name} {json.dumps(setting(values, name))}" for name in experiment.auto]
        lines.append(f"settings that follow from the data: {', '.join(shown)}")
    dataset = open_dataset(experiment.data, experiment.label)
    lines += _of_rows(dataset)
    valid = dataset.manifest.splits.get("valid")
    if valid is None or not valid.rows:
        lines.append("there is no valid split: the last epoch counts as the best")
    elif valid.positives in (0, valid.rows):
        lines.append(
            f"all {valid.rows:,} rows of valid have the same label: AUC is not defined there, and "
            f"{experiment.train.monitor} is monitored. With a wide part the model stays logistic "
            "regression. A larger valid split would help: `split` in the data-set YAML"
        )
    elif (rarer := _rarer(valid)) < _FEW:
        lines.append(
            f"valid has only {rarer:,} rows of the rarer label, so AUC and log loss there depend "
            f"on chance; {experiment.train.monitor} is monitored"
            + (". A tower must gain clearly to count" if experiment.model.wide else "")
        )
    return lines


def _of_rows(dataset: "Dataset") -> list[str]:
    """Returns remarks on several labels, and on rows that were drawn."""
    lines = []
    if dataset.schema.labels:
        others = [name for name in dataset.schema.labels if name != dataset.label]
        chosen = dataset.label or others.pop(0)
        lines.append(f"the label is {chosen}; --label may also be {', '.join(others)}")
    kept = dataset.split("train").negatives_kept
    if kept < 1:
        lines.append(
            f"{kept:.3g} of the rows with label 0 are in train: the training loss is theirs, and "
            "predictions are corrected to the probabilities of the whole log"
        )
    return lines


def _facts(dataset: "Dataset", workers: int) -> Facts:
    train, valid = (dataset.manifest.splits.get(name) for name in ("train", "valid"))
    return Facts(
        rows=train.rows if train else 0,
        ids=sum(field.vocabulary_size for field in dataset.schema.categorical),
        valid=valid is not None and valid.rows > 0,
        rarer_train=_rarer(train),
        counts=bool(dataset.manifest.config),  # written by preprocessing, which counts
        workers=workers,
    )


def _rarer(split: "Split | None") -> int:
    """The rows of the rarer label; 0 if there is no split."""
    return 0 if split is None else min(split.positives, split.rows - split.positives)


def _saved(experiment: Experiment) -> dict[str, Any]:
    """The automatic settings with which an earlier start of the run began; none for a new run.

    A setting that did not exist then keeps its default, with which a run computes the same.
    """
    path = Path(experiment.runs) / experiment.run_name / "artifacts" / "config.yaml"
    if not path.is_file():
        return {}
    saved, defaults = migrated(yaml.safe_load(path.read_text())), to_dict(experiment)
    return {name: setting(saved, name, setting(defaults, name)) for name in experiment.auto}


def _check_workers(experiment: Experiment) -> None:
    workers, faults = experiment.workers, experiment.faults
    if workers < 1:
        raise ConfigError(f"--workers {workers}: at least 1.")
    if not 0 <= experiment.min_workers <= workers:
        raise ConfigError(
            f"--min-workers {experiment.min_workers}: from 1 to --workers {workers}, "
            "or 0 for exactly that many."
        )
    if faults.max_restarts < -1:
        raise ConfigError(
            f"faults.max_restarts {faults.max_restarts}: a number, or -1 for no bound."
        )
    if faults.step_timeout_s < 0:
        raise ConfigError(
            f"faults.step_timeout_s {faults.step_timeout_s}: seconds, or 0 for no limit."
        )
    if experiment.loader.batch_size < workers:
        raise ConfigError(
            f"loader.batch_size {experiment.loader.batch_size} is for all workers together: "
            f"at least one row for each of the {workers}."
        )


def _check_batch_norm(experiment: Experiment, rows: int) -> None:
    """Refuses a model with batch normalisation that would meet a batch of one row."""
    from ctrdist.data.order import step_bounds

    loader, workers = experiment.loader, experiment.workers
    synchronised = workers > 1 and experiment.train.sync_batch_norm
    if synchronised or not getattr(experiment.model, "batch_norm", False):
        return
    bounds = step_bounds(rows, loader.batch_size)
    smallest = int((bounds[1:] - bounds[:-1]).min()) // workers
    if smallest // max(1, min(loader.accumulate, smallest)) == 1:
        raise ConfigError(
            f"batch normalisation needs two rows, and a worker would get one: "
            f"loader.batch_size {loader.batch_size} on {workers} workers, loader.accumulate "
            f"{loader.accumulate}, {rows:,} rows for training. Give a larger loader.batch_size, a "
            "smaller loader.accumulate, train.sync_batch_norm true or model.batch_norm false."
        )


def _check_optimisers(experiment: Experiment) -> None:
    optim = experiment.optim
    for section, tables in (("tables", optim.tables), ("codebooks", optim.codebooks)):
        if tables is not None and tables.l2 and not tables.algorithm.dense:
            raise ConfigError(
                f"optim.{section}.l2 = {tables.l2} needs optim.{section}.name = adam; "
                f"{tables.name} touches looked-up rows only. Set one or the other."
            )
