"""Trains any model; tables sharded over the workers, the run tracked in MLflow.

python jobs/train.py --model dlf --config jobs/configs/frappe_dlf.yaml --data DIR --workers 2

jobs/train_dlf.py and the like are the same job, with the model named by the file.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ctrdist.config.experiment import Experiment, experiment_of
from ctrdist.config.parse import parse
from ctrdist.errors import ConfigError
from ctrdist.models.registry import check_loss, config_class, model_names
from jobs.console.cli import print_json, run

FLAGS = {
    "json": "The last line on stdout is one JSON object with the results.",
    "dry_run": "Show tables, sharding plan and memory, and start nothing.",
}


def main(
    model_name: str, description: str, argv: Sequence[str] | None = None, prog: str = ""
) -> None:
    """Reads the command line, trains the model with its workers, and shows the results."""
    cls = experiment_of(model_name, config_class(model_name))
    prog = prog or f"jobs/train_{model_name}.py"
    experiment, switches = parse(cls, argv, description=description, flags=FLAGS, prog=prog)
    experiment = complete(experiment)
    if switches["dry_run"]:
        from jobs.console.plan import show_plan

        result = show_plan(experiment)
    else:
        result = train(experiment)
    if switches["json"]:
        print_json(result)


def train(experiment: Experiment) -> dict[str, Any]:
    """Trains with Ray, or as one of the processes that torchrun started."""
    from jobs.console.run import RunConsole

    if "TORCHELASTIC_RUN_ID" in os.environ:
        return _train_under_torchrun(experiment)
    from cluster.launch import launch

    with RunConsole() as console:
        console.note(f"starting {experiment.workers} workers …")
        result = launch("train", experiment, {}, console.show)
    console.show_results(result)
    return result


def complete(experiment: Experiment) -> Experiment:
    """Fills in what depends on the machine and the time, and checks what can be checked at once.

    Raises:
        ConfigError: data or a setting is missing or cannot work.
        DataError: there is no data set.
    """
    if not experiment.data:
        raise ConfigError(
            "--data DIR is missing: the directory that jobs/preprocess.py wrote, local or s3://."
        )
    if experiment.workers < 1:
        raise ConfigError(f"--workers {experiment.workers}: at least 1.")
    if not 0 <= experiment.min_workers <= experiment.workers:
        raise ConfigError(
            f"--min-workers {experiment.min_workers}: from 1 to --workers {experiment.workers}, "
            "or 0 for exactly that many."
        )
    if experiment.faults.max_restarts < -1:
        raise ConfigError(
            f"faults.max_restarts {experiment.faults.max_restarts}: a number, or -1 for no bound."
        )
    if experiment.faults.step_timeout_s < 0:
        raise ConfigError(
            f"faults.step_timeout_s {experiment.faults.step_timeout_s}: seconds, or 0 for never."
        )
    if experiment.loader.batch_size < experiment.workers:
        raise ConfigError(
            f"loader.batch_size {experiment.loader.batch_size} is for all workers together: "
            f"at least one row for each of the {experiment.workers}."
        )
    optim = experiment.optim
    for of, tables in (("tables", optim.tables), ("codebooks", optim.codebooks)):
        if tables is not None and tables.l2 and tables.name != "adam":
            raise ConfigError(
                f"optim.{of}.l2 = {tables.l2} needs optim.{of}.name = adam; {tables.name} touches "
                "looked-up rows only. Set one or the other."
            )
    check_loss(experiment.loss, experiment.model_name)
    name = experiment.run_name
    if "/" in name or name.startswith("."):
        raise ConfigError(
            f"--run-name {name}: a plain name without '/' that does not begin with '.'."
        )
    from ctrdist.data.manifest import open_dataset

    runs = experiment.runs if experiment.runs != "runs" else os.environ.get("CTRDIST_RUNS", "runs")
    data = experiment.data if "://" in experiment.data else absolute(experiment.data, "--data")
    dataset = open_dataset(data)
    name = name or f"{experiment.model_name}-{dataset.schema.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    directory = experiment.checkpoint.directory
    if directory and "://" not in directory:
        directory = absolute(directory, "--checkpoint.directory")
    return replace(
        experiment,
        data=data,
        run_name=name,
        runs=absolute(runs, "--runs (or CTRDIST_RUNS)"),
        checkpoint=replace(experiment.checkpoint, directory=directory),
    )


def absolute(path: str, option: str) -> str:
    """The absolute path; refuses a relative one in a submitted job.

    Raises:
        ConfigError: the path is relative and this is a job of `ray job submit --working-dir`.
    """
    expanded = Path(path).expanduser()
    if (
        not expanded.is_absolute()
        and "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
        and "_ray_pkg_" in os.getcwd()
    ):
        raise ConfigError(
            f"{option} {path}: a relative path in a submitted job means Ray's temporary copy of "
            "the working directory, which is deleted. Give an absolute path or s3://."
        )
    return str(expanded.absolute())


def _train_under_torchrun(experiment: Experiment) -> dict[str, Any]:
    from ctrdist.distributed.process_group import join_world, leave_world
    from ctrdist.log import setup

    setup(int(os.environ["RANK"]))
    from ctrdist.training.faults.stopping import Interrupted, StopRequest
    from ctrdist.training.observe import messages
    from ctrdist.training.run import train as train_rank
    from jobs.console.run import RunConsole

    world = join_world(timeout_s=max(1800.0, experiment.faults.step_timeout_s * 2))
    stop = StopRequest()
    stop.listen(signal.SIGTERM, signal.SIGINT)
    with RunConsole() as console:
        try:
            result = train_rank(replace(experiment, workers=world.size), world, console.show, stop)
        except Interrupted as interrupted:
            if world.is_main:
                console.show(messages.Interrupted(step=interrupted.step))
            raise
    leave_world()
    if not world.is_main:
        sys.exit(0)
    console.show_results(result)
    return result


def _named_model(argv: Sequence[str]) -> tuple[str, list[str]]:
    """The value of --model, and the other arguments; --model.… are settings of the model."""
    rest, name = list(argv), ""
    for index, text in enumerate(argv):
        if text == "--model" or text.startswith("--model="):
            taken = 1 if "=" in text else 2
            name = "".join(argv[index : index + taken]).removeprefix("--model").removeprefix("=")
            del rest[index : index + taken]
            break
    if not name or name.startswith("-"):
        raise ConfigError(
            f"--model NAME is missing: one of {', '.join(model_names())}. "
            "`--model NAME --help` lists its settings."
        )
    return name, rest


def _train_named_model() -> None:
    name, argv = _named_model(sys.argv[1:])
    main(name, str(__doc__), argv, f"jobs/train.py --model {name}")


if __name__ == "__main__":
    run(_train_named_model)
