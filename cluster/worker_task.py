"""The task of one worker, whoever started it: joins the process group, then trains or evaluates."""

from __future__ import annotations

import os
import sys
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctrdist.config.experiment import Experiment
from ctrdist.config.parse import to_dict
from ctrdist.errors import UserError
from ctrdist.models.registry import read_experiment
from ctrdist.training.faults.stopping import Interrupted, StopRequest
from ctrdist.training.observe import messages

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class WorkerTask:
    """The task of each worker of a run, as plain values that can go to another process."""

    kind: str
    """train or evaluate."""
    experiment: dict[str, Any]
    """Values of the experiment."""
    arguments: dict[str, Any]
    """Further arguments of an evaluation."""
    threads: int
    """Threads of each worker; 0: an equal share of the machine's cores."""
    command: tuple[str, ...]
    """The job's sys.argv. That of Ray's workers names a file of Ray's."""

    @staticmethod
    def of(kind: str, experiment: Experiment, arguments: dict[str, Any]) -> WorkerTask:
        """The task with the values of an experiment, and the threads that OMP_NUM_THREADS gives.

        The variable is read here, as Ray sets it to 1 in its workers.
        """
        threads = os.environ.get("OMP_NUM_THREADS", "")
        number = int(threads) if threads.isdecimal() else 0
        return WorkerTask(kind, to_dict(experiment), arguments, number, tuple(sys.argv))

    def run(
        self, rank: int, device: torch.device | None, emit: messages.Emit, stop: StopRequest
    ) -> None:
        """Runs the task in this process, and emits its result or its error, which it also raises.

        Args:
            rank: of this worker.
            device: to compute on; None: a GPU if there is one.
            emit: takes messages of any rank.
            stop: ends training after a step.
        """
        from ctrdist.distributed.process_group import join_world, leave_world
        from ctrdist.log import forward, setup

        sys.argv = list(self.command)
        setup(rank)
        forward(rank, lambda line: emit(messages.Logged(text=line)))
        from ctrdist.training import run  # after setup, because these imports log

        try:
            experiment = read_experiment(self.experiment, "experiment")
            # longer than the watchdog, which leaves the stacks of a hung collective
            world = join_world(device, max(1800.0, experiment.faults.step_timeout_s * 2))
            if self.kind == "train":
                run.train(experiment, world, emit, stop, self.threads)
            else:
                run.evaluate_checkpoint(
                    experiment, world=world, emit=emit, threads=self.threads, **self.arguments
                )
        except UserError as error:
            emit(messages.UserFault(type=type(error).__name__, text=str(error)))
            raise
        except Interrupted as interrupted:
            if rank == 0:
                emit(messages.Stopped(step=interrupted.step))
            raise
        except BaseException:  # CheckpointException is no Exception
            emit(messages.Crash(rank=rank, traceback=traceback.format_exc()))
            raise
        leave_world()
