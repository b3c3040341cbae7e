"""The command that jobs/train.py and jobs/train_<model>.py share."""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ctrdist.config.experiment import Experiment
from ctrdist.models.registry import experiment_class
from ctrdist.training.complete import complete, remarks
from jobs.console.cli import call

DRY_RUN = "Show tables, sharding plan and memory, and start nothing."


def train_model(
    model_name: str, description: str | None, argv: Sequence[str] | None = None, prog: str = ""
) -> None:
    """Reads the command line, trains the model with its workers, and shows the results."""
    cls = experiment_class(model_name)
    call(_train, cls, description, argv=argv, dry_run=DRY_RUN, prog=prog)


def _train(experiment: Experiment, switches: Mapping[str, bool]) -> dict[str, Any]:
    experiment = complete(experiment)
    if switches["dry_run"]:
        from jobs.console.plan import show_plan

        return show_plan(experiment)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return _train_under_torchrun(experiment)
    return _train_on_workers(experiment)


def _train_on_workers(experiment: Experiment) -> dict[str, Any]:
    from cluster.launch import launch
    from jobs.console.run import RunConsole, plural

    with RunConsole() as console:
        for line in remarks(experiment):
            console.note(line)
        console.note(f"starting {plural(experiment.workers, 'worker')} …")
        result = launch("train", experiment, {}, console.show)
    console.show_results(result)
    return result


def _train_under_torchrun(experiment: Experiment) -> dict[str, Any]:
    """Trains as one of the processes that torchrun has started; only rank 0 returns."""
    from ctrdist.distributed.process_group import join_world, leave_world
    from ctrdist.log import setup

    setup(int(os.environ["RANK"]))
    from ctrdist.training.faults.stopping import Interrupted, StopRequest
    from ctrdist.training.observe import messages
    from ctrdist.training.run import train
    from jobs.console.run import RunConsole

    world = join_world(timeout_s=max(1800.0, experiment.faults.step_timeout_s * 2))
    stop = StopRequest()
    stop.listen(signal.SIGTERM, signal.SIGINT)
    with RunConsole() as console:
        for line in remarks(experiment) if world.is_main else ():
            console.note(line)
        try:
            result = train(replace(experiment, workers=world.size), world, console.show, stop)
        except Interrupted as interrupted:
            if world.is_main:
                console.show(messages.Interrupted(step=interrupted.step))
            raise
    leave_world()
    if not world.is_main:
        sys.exit(0)
    console.show_results(result)
    return result
