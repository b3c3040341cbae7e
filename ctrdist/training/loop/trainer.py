"""The training loop: one epoch, one run, each readable from top to bottom."""

from __future__ import annotations

import copy
import logging
import time
from functools import partial
from pathlib import Path
from signal import SIGTERM
from typing import Any, NoReturn

import torch
from torch import Tensor

from ctrdist.checkpoint.store import (
    CheckpointStore,
    Opened,
    Texts,
    checkpoint_directory,
    complete,
    load_tensors,
    read,
)
from ctrdist.config.parse import to_yaml
from ctrdist.data.loader import Loader
from ctrdist.distributed.process_group import require_rows_for_all, run_on_main, sum_over_ranks
from ctrdist.errors import ConfigError, DamagedCheckpointError
from ctrdist.metrics.rows import digest, digest_of_range
from ctrdist.protocols import Batch
from ctrdist.training.build import Engine
from ctrdist.training.compatible import check_same_model
from ctrdist.training.faults.non_finite import refuse_step
from ctrdist.training.faults.stopping import Interrupted, StopRequest, Timer
from ctrdist.training.faults.watchdog import Watchdog
from ctrdist.training.loop.evaluate import Evaluation, average_buffers, evaluate
from ctrdist.training.loop.prefetch import Pipeline
from ctrdist.training.loop.state import Progress, monitored
from ctrdist.training.loop.step import Step
from ctrdist.training.observe.abundance import refresh_abundance
from ctrdist.training.observe.callbacks import Callback, Started, Stepped
from ctrdist.training.observe.throughput import Clock, Work, report

_LEAVE_SECONDS = 30.0
"""How long a run that fails waits for a checkpoint that is being written."""

_log = logging.getLogger(__name__)


class Trainer:
    """Trains an engine until its config says that it is enough.

    Every rank has one and calls the same methods.
    """

    def __init__(
        self,
        engine: Engine,
        run_dir: str | Path,
        callback: Callback,
        stop: StopRequest | None = None,
        watchdog: Watchdog | None = None,
    ) -> None:
        """Prepares the loop.

        Args:
            engine: what is trained.
            run_dir: the run's directory, seen by all workers.
            callback: called on rank 0, and on the others where it says so.
            stop: may ask this run to end between two steps.
            watchdog: ends this process when nothing gets on.
        """
        self.engine = engine
        self.run_dir = Path(run_dir)
        self.progress = Progress()
        self._clock = Clock(engine.world.device)
        self._work: Work | None = None
        self._watchdog = watchdog or Watchdog(0, self.run_dir, engine.world.rank)
        self._config = engine.experiment.train
        self._world = engine.world
        self._callback = callback if engine.world.is_main or callback.on_all_ranks else Callback()
        experiment = engine.experiment
        self._store = CheckpointStore(
            checkpoint_directory(run_dir, experiment.run_name, experiment.checkpoint),
            experiment.checkpoint,
        )
        self._saving = self.progress
        """As it was at the checkpoint that is being written."""
        self._loader = Loader(
            engine.dataset,
            "train",
            engine.experiment.loader,
            seed=self._config.seed,
            rank=engine.world.rank,
            world_size=engine.world.size,
            pinned=engine.world.device.type == "cuda",
        )
        self._pipeline = Pipeline(engine)
        self._step = Step(
            engine=engine,
            progress=self.progress,
            pipeline=self._pipeline,
            clock=self._clock,
            stop=stop or StopRequest(),
            timer=Timer(experiment.checkpoint.every_seconds if engine.world.is_main else 0),
            refuse=self._refuse,
        )
        require_rows_for_all(self._loader.rows, engine.world, "train")
        valid = engine.dataset.manifest.splits.get("valid")
        self._has_valid = valid is not None and valid.rows > 0
        if self._config.monitor in ("gauc", "auc+gauc") and engine.dataset.schema.user is None:
            raise ConfigError(
                f"train.monitor = {self._config.monitor}, but data set "
                f"{engine.dataset.schema.name} has no user column. Use auc, logloss, auc-logloss "
                "or ne, or give a column the role user and preprocess again."
            )

    def fit(self) -> dict[str, Any]:
        """Trains, then evaluates the best checkpoint on test.

        Returns:
            The run's results, the same on all ranks.
        """
        try:
            resumed = self._resume()
            self._callback.on_start(self._started(resumed))
            with self._watchdog:
                while not self.progress.stopped:
                    self._train_epoch()
                summary = self._finish()
        except BaseException as error:
            self._store.leave(_LEAVE_SECONDS)
            self._callback.on_failure(error)
            raise
        self._callback.on_end(summary)
        return summary

    def train_step(self, batch: Batch) -> tuple[float, float]:
        """One step on this worker's rows: see :meth:`ctrdist.training.loop.step.Step.take`."""
        return self._step.take(batch)

    def _train_epoch(self) -> None:
        every = self.engine.experiment.checkpoint.every_steps
        limit = self._config.max_steps
        begun = time.perf_counter()
        self._clock.begin()
        for batch, on_device in self._pipeline.batches(self._loader):
            self._clock.mark("loader")
            rows = batch.global_size
            row_digest = digest(batch.row_B.numpy())
            self._work = self._work or Work.of(self.engine, on_device)
            loss, norm = self.train_step(on_device)
            self.progress.add_rows(rows, row_digest, loss)
            now = time.perf_counter()
            self.progress.train_seconds += now - begun
            self._callback.on_step(self._stepped(loss / rows, norm, rows, now - begun))
            self._clock.end()
            self._watchdog.beat()
            if limit and self.progress.step >= limit:
                self.progress.stopped = f"train.max_steps = {limit} reached"
                break
            if self._loader.consumed < self._loader.rows:
                if self._step.stop_agreed:
                    self._checkpoint()
                    self._interrupt()
                if self._step.due_agreed or (every and self.progress.step % every == 0):
                    self._checkpoint()
            begun = time.perf_counter()
            self._clock.begin()
        self._end_epoch()

    def _end_epoch(self) -> None:
        epoch, train_loss = (
            self._loader.epoch,
            self.progress.epoch_loss / max(self.progress.epoch_rows, 1),
        )
        if self._loader.consumed == self._loader.rows:
            self._check_rows()
            refresh_abundance(self.engine)
            self._loader.next_epoch()
            self.progress.begin_epoch()
        self._callback.on_epoch_end(self.progress, epoch)
        value = None
        if self._has_valid:
            evaluation = evaluate(self.engine, "valid", self._watchdog.beat)
            value = monitored(evaluation.metrics, self._config.monitor)
            already = self.progress.stopped
            self.progress.judge(evaluation.metrics, self._config)
            self.progress.stopped = already or self.progress.stopped
            self._callback.on_evaluate("valid", evaluation, self.progress, epoch, train_loss)
        else:
            self.progress.best_step = self.progress.step
        if not self.progress.stopped and self._loader.epoch >= self._config.epochs:
            self.progress.stopped = f"train.epochs = {self._config.epochs} reached"
        self._checkpoint(value)
        if self._step.stop_agreed and not self.progress.stopped:
            self._interrupt()

    def _check_rows(self) -> None:
        """Proves that this epoch has seen each row of the split exactly once."""
        seen = torch.tensor(_signed(self.progress.epoch_digest), device=self._world.device)
        total = int(sum_over_ranks(seen)) % 2**64
        if self.progress.epoch_rows != self._loader.rows or total != digest_of_range(
            self._loader.rows
        ):
            raise RuntimeError(
                f"epoch {self._loader.epoch}: {self.progress.epoch_rows:,} rows seen of "
                f"{self._loader.rows:,}, or one of them twice. This is a defect of the loader; "
                "the last checkpoint is sound."
            )

    def _checkpoint(self, value: float | None = None) -> None:
        """Begins a checkpoint of what has been trained; value: of the monitor, where evaluated."""
        self._await_checkpoint()
        average_buffers(self.engine)
        seen = torch.tensor(_signed(self.progress.epoch_digest), device=self._world.device)
        whole_digest = int(sum_over_ranks(seen)) % 2**64
        state = {
            "progress": {**self.progress.state_dict(), "epoch_digest": whole_digest},
            "loader": self._loader.state_dict(),
            "loss_scale": self._step.loss_scale.state_dict(),
            "world_size": self._world.size,
        }
        texts = Texts(
            config=to_yaml(self.engine.experiment),
            schema=self.engine.dataset.schema.to_json(),
            plan=self.engine.layout.to_json(),
        )
        self._store.save(
            self.progress.step,
            self.engine.tensors(),
            state,
            texts,
            value=value,
            best_step=self.progress.best_step,
        )
        self._saving = copy.copy(self.progress)
        self._step.timer.restart()
        if not self.engine.experiment.checkpoint.asynchronous:
            self._await_checkpoint()
        self._watchdog.beat()

    def _interrupt(self) -> NoReturn:
        """Ends the run as it was asked to, once its checkpoint is whole."""
        self._await_checkpoint()
        raise Interrupted(self.progress.step, self._step.stop.signum or SIGTERM)

    def _await_checkpoint(self) -> None:
        """Waits for the checkpoint that is being written, if one is, and reports it."""
        saved = self._store.wait()
        if saved is not None:
            self._callback.on_checkpoint(saved.path, self._saving, saved.seconds)

    def _resume(self) -> int:
        run_on_main(self._store.remove_leftovers)
        paths = run_on_main(partial(complete, self._store.directory))
        for path in reversed(paths):
            try:
                return self._resume_from(path)
            except DamagedCheckpointError as error:
                if path == paths[0]:
                    raise DamagedCheckpointError(
                        f"{error} There is no older one of this run; give another --run-name to "
                        "begin anew."
                    ) from error
                _log.warning("%s Going on from the one before it.", error)
        return 0

    def _resume_from(self, path: str) -> int:
        saved: Opened = run_on_main(partial(read, path))
        check_same_model(saved, self.engine.experiment, self.engine.dataset.schema.to_json())
        load_tensors(saved.path, self.engine.tensors())
        self._loader.load_state_dict(saved.state["loader"])
        self.progress.load_state_dict(saved.state["progress"])
        if "loss_scale" in saved.state:
            self._step.loss_scale.load_state_dict(saved.state["loss_scale"])
        if not self._world.is_main:
            self.progress.epoch_digest = 0  # rank 0 goes on with the whole
        self.progress.go_on(self._config, self._loader.epoch)
        return self.progress.step

    def _finish(self) -> dict[str, Any]:
        """Evaluates the best checkpoint on test; it stays loaded."""
        self._await_checkpoint()
        self.engine.keep_averages()
        assert self.progress.best_step is not None
        best = self._store.path_of(self.progress.best_step)
        if self.progress.best_step != self.progress.step:
            load_tensors(best, self.engine.model_tensors())
        test: dict[str, float] = {}
        split = self.engine.dataset.manifest.splits.get("test")
        if split is not None and split.rows:
            evaluation: Evaluation = evaluate(self.engine, "test", self._watchdog.beat)
            test = evaluation.metrics
            self._callback.on_evaluate(
                "test", evaluation, self.progress, self._loader.epoch - 1, float("nan")
            )
        progress = self.progress
        return {
            "run_name": self.engine.experiment.run_name,
            "run_dir": str(self.run_dir),
            "checkpoint": best,
            "test": test,
            "valid": progress.best_metrics,
            "best_step": progress.best_step,
            "steps": progress.step,
            "epochs": self._loader.epoch,
            "rows_seen": progress.rows_seen,
            "samples_per_s": progress.rows_seen / max(progress.train_seconds, 1e-9),
            "train_seconds": progress.train_seconds,
            "throughput": report(self.engine, self._clock, self._work) if self._work else {},
            "stopped": progress.stopped,
            "workers": self._world.size,
            "data_fingerprint": self.engine.dataset.manifest.fingerprint,
        }

    def _refuse(self, batch: Batch, loss: Tensor) -> NoReturn:
        refuse_step(
            self.run_dir,
            self.engine.dataset,
            self._world,
            batch,
            loss,
            step=self.progress.step,
            epoch=self._loader.epoch,
        )

    def _started(self, resumed: int) -> Started:
        parameters = sum(p.numel() for p in self.engine.tower.parameters())
        return Started(
            engine=self.engine,
            resumed_step=resumed,
            steps_per_epoch=-(-self._loader.rows // self.engine.experiment.loader.batch_size),
            dense_parameters=parameters,
            table_parameters=self.engine.layout.table_parameters,
        )

    def _stepped(self, loss: float, norm: float, rows: int, seconds: float) -> Stepped:
        return Stepped(
            progress=self.progress,
            epoch=self._loader.epoch,
            steps_left=self._loader.steps,
            loss=loss,
            grad_norm=norm,
            learning_rates=self.engine.optimizers.learning_rates,
            rows=rows,
            seconds=seconds,
        )


def _signed(value: int) -> int:
    """The same 64 bits as a signed number, as tensors hold them."""
    return value - 2**64 if value >= 2**63 else value
