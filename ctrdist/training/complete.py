"""Completes and checks an experiment before any worker is started."""

import os
import time
from dataclasses import replace

from ctrdist.config.experiment import Experiment
from ctrdist.errors import ConfigError
from ctrdist.models.registry import check_loss


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
    dataset = open_dataset(experiment.data)
    _check_batch_norm(experiment, dataset.split("train").rows)
    data = dataset.schema.name
    started = time.strftime("%Y%m%d-%H%M%S")
    return replace(experiment, run_name=name or f"{experiment.model_name}-{data}-{started}")


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
