"""The training loop: one epoch, one run, each readable from top to bottom."""

import copy
import logging
import math
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from signal import SIGTERM
from typing import Any, NoReturn

import torch
from torch import Tensor

from ctrdist.batch import Batch, Output
from ctrdist.checkpoint import store
from ctrdist.config.parse import to_yaml
from ctrdist.data.loader import Loader
from ctrdist.distributed.process_group import require_rows_for_all, run_on_main, sum_over_ranks
from ctrdist.errors import ConfigError, DamagedCheckpointError, TrainingError
from ctrdist.metrics.rows import digest, digest_of_range
from ctrdist.schema import Schema
from ctrdist.training.build import Engine, check_same_model
from ctrdist.training.faults.non_finite import abort_on_non_finite_loss
from ctrdist.training.faults.stopping import Interrupted, StopRequest
from ctrdist.training.faults.watchdog import Watchdog
from ctrdist.training.loop.evaluate import average_buffers, evaluate
from ctrdist.training.loop.folds import Choice
from ctrdist.training.loop.prefetch import Prefetcher
from ctrdist.training.loop.state import Progress, StopReason, is_finite, monitored
from ctrdist.training.loop.step import Step
from ctrdist.training.loop.wide import train_wide
from ctrdist.training.observe import messages
from ctrdist.training.observe.abundance import refresh_abundance
from ctrdist.training.observe.observers import Observer, Observers, Stepped
from ctrdist.training.observe.throughput import StepClock, report

_LEAVE_SECONDS = 30.0
"""Time that a failing run waits for a checkpoint that is being written."""

_log = logging.getLogger(__name__)


class Trainer:
    """Trains an engine as its config says. Every rank has one and calls the same methods."""

    def __init__(
        self,
        engine: Engine,
        run_dir: str | Path,
        observers: Sequence[Observer] = (),
        stop: StopRequest | None = None,
        watchdog: Watchdog | None = None,
        choice: Choice | None = None,
    ) -> None:
        """Prepares the loop.

        Args:
            engine: the engine to train.
            run_dir: the run's directory, seen by all workers.
            observers: called on rank 0, and on the other ranks if they say so.
            stop: may ask this run to end between two steps.
            watchdog: ends this process if it hangs.
            choice: epochs and share that cross-validation has chosen, for a run that begins.

        Raises:
            ConfigError: a split has too few rows, or the monitor does not fit the data.
        """
        self.engine = engine
        self.run_dir = Path(run_dir)
        self.progress = Progress()
        if choice is not None:
            self.progress.chosen_epochs, self.progress.chosen_share = choice.epochs, choice.share
        self._clock = StepClock(engine.world.device)
        self._watchdog = watchdog or Watchdog(0, self.run_dir, engine.world.rank)
        self._config = engine.experiment.train
        self._world = engine.world
        self._wide = engine.model.module.wide is not None
        self._observers = Observers(observers)
        experiment = engine.experiment
        directory = store.checkpoint_directory(run_dir, experiment.run_name, experiment.checkpoint)
        self._store = store.CheckpointStore(directory, experiment.checkpoint)
        self._saving = self.progress
        """Progress at the checkpoint that is being written."""
        self._loader = Loader(
            engine.dataset,
            "train",
            engine.experiment.loader,
            seed=self._config.seed,
            rank=engine.world.rank,
            world_size=engine.world.size,
            pinned=engine.world.device.type == "cuda",
        )
        self.prefetcher = Prefetcher(engine)
        self.step = Step(
            engine=engine,
            progress=self.progress,
            prefetcher=self.prefetcher,
            clock=self._clock,
            observers=self._observers,
            abort=self._abort,
            stop=stop or StopRequest(),
            checkpoint_at=self._next_checkpoint(),
        )
        require_rows_for_all(self._loader.rows, engine.world, "train")
        _check_monitor(self._config.monitor, engine.dataset.schema)

    def fit(self) -> dict[str, Any]:
        """Trains, then evaluates the best checkpoint on test; the results, the same on all ranks.

        Raises:
            TrainingError: no evaluation on valid was finite.
        """
        try:
            step = self._resume()
            resumed, event = step is not None, self._start(step or 0)
            self._observers.tell(lambda observer: observer.on_start(self.engine, event))
            with self._watchdog:
                if self._wide and not resumed:
                    self._train_wide()
                while self.progress.stopped is None:
                    self._train_epoch()
                summary = self._finish()
            self._observers.tell(lambda observer: observer.on_end(summary))
        except BaseException as error:
            failure = error
            self._store.leave(_LEAVE_SECONDS)
            self._observers.tell(lambda observer: observer.on_failure(failure))
            raise
        return summary

    def _start(self, resumed_step: int) -> messages.Start:
        experiment, layout = self.engine.experiment, self.engine.layout
        return messages.Start(
            run_name=experiment.run_name,
            model=experiment.model_name,
            resumed_step=resumed_step,
            steps_per_epoch=-(-self._loader.rows // experiment.loader.batch_size),
            dense_parameters=sum(p.numel() for p in self.engine.tower.parameters()),
            table_parameters=layout.table_parameters,
            tables=len({shard.table for shard in layout.shards}),
            kinds=sorted({shard.kind for shard in layout.shards}),
            bytes_per_rank=layout.bytes_per_rank,
            device=self._world.device.type,
            workers=self._world.size,
        )

    def _train_wide(self) -> None:
        """Epoch 0: fits the wide part, which is the model until a tower gains on it."""
        loss = train_wide(self.engine, self._watchdog.beat, self.step.stop)
        value = None
        if self._has_rows("valid"):
            metrics = self._evaluate("valid", -1, loss)
            if is_finite(metrics, self._config.monitor):
                value = monitored(metrics, self._config.monitor)
        self._checkpoint(value)

    def _train_epoch(self) -> None:
        every = self.engine.experiment.checkpoint.every_steps
        limit = self._config.max_steps
        begun = time.perf_counter()
        self._clock.begin()
        for batch, on_device in self.prefetcher.batches(self._loader):
            self._clock.mark("loader")
            rows = batch.global_size
            row_digest = digest(batch.row_B.numpy())
            self._clock.count(self.engine, on_device)
            loss, norm = self.step.take(on_device)
            self.progress.add_rows(rows, row_digest, loss)
            now = time.perf_counter()
            self.progress.train_seconds += now - begun
            stepped = self.stepped(loss / rows, norm, rows, now - begun)
            self._observers.tell(lambda o, event=stepped: o.on_step(event))  # type: ignore[misc]
            self._clock.end()
            self._watchdog.beat()
            if limit and self.progress.step >= limit:
                self.progress.stop(StopReason.MAX_STEPS, f"train.max_steps = {limit} reached")
                break
            if self._loader.consumed < self._loader.rows:
                due = every and self.progress.step % every == 0
                if due or self.step.stop_agreed or self.step.checkpoint_agreed:
                    self._checkpoint()
                if self.step.stop_agreed:
                    self._interrupt()
            begun = time.perf_counter()
            self._clock.begin()
        self._end_epoch()

    def _end_epoch(self) -> None:
        epoch = self._loader.epoch
        train_loss = self.progress.epoch_loss / max(self.progress.epoch_rows, 1)
        if self._loader.consumed == self._loader.rows:
            self._check_rows()
            refresh_abundance(self.engine)
            self._loader.next_epoch()
            self.progress.begin_epoch()
        self._observers.tell(lambda observer: observer.on_epoch_end(self.progress, epoch))
        value = None
        if self._has_rows("valid"):
            metrics = self._evaluate("valid", epoch, train_loss)
            if is_finite(metrics, self._config.monitor):
                value = monitored(metrics, self._config.monitor)
        else:
            self.progress.best_step = self.progress.step
        if self._loader.epoch >= self._config.epochs:
            self.progress.stop(StopReason.EPOCHS, f"train.epochs = {self._config.epochs} reached")
        self._checkpoint(value)
        if self.step.stop_agreed and self.progress.stopped is None:
            self._interrupt()

    def _evaluate(self, split: str, epoch: int, train_loss: float) -> dict[str, float]:
        """Evaluates a split, and judges the epoch by valid; the metrics."""

        def on_output(output: Output, label_B: Tensor) -> None:
            self._observers.tell(lambda observer: observer.on_output(output, label_B))
            self._watchdog.beat()

        choose, progress = self._wide and split == "valid", self.progress
        metrics, histogram = evaluate(
            self.engine,
            split,
            on_output,
            choose=choose and epoch >= 0,
            share=progress.chosen_share,
        )
        if choose and epoch < 0:
            metrics |= {"tower_share": 0.0, "gain": 0.0, "gain_bound": 0.0}
        if split == "valid":
            chosen = min(progress.chosen_epochs or 0, self._config.epochs)
            at_chosen = progress.chosen_epochs is not None and epoch + 1 == chosen
            progress.judge(metrics, self._config, at_chosen=at_chosen)
        event = messages.Evaluation(
            split=split,
            epoch=epoch,
            best=progress.best_step == progress.step,
            stale_epochs=progress.stale_epochs,
            train_loss=train_loss,
            metrics=metrics,
        )
        self._observers.tell(lambda o: o.on_evaluate(event, progress.step, histogram))
        return metrics

    def _check_rows(self) -> None:
        """Checks that this epoch has seen each row of the split exactly once."""
        rows = self._loader.rows
        if self.progress.epoch_rows != rows or self._digest_over_ranks() != digest_of_range(rows):
            raise RuntimeError(
                f"epoch {self._loader.epoch}: {self.progress.epoch_rows:,} rows seen of "
                f"{rows:,}, or one of them twice. This is a defect of the loader; "
                "the last checkpoint is sound."
            )

    def _digest_over_ranks(self) -> int:
        """The digest of all ranks' rows of this epoch; tensors hold it as a signed number."""
        own = self.progress.epoch_digest
        signed = own - 2**64 if own >= 2**63 else own
        return int(sum_over_ranks(torch.tensor(signed, device=self._world.device))) % 2**64

    def _checkpoint(self, value: float | None = None) -> None:
        """Begins a checkpoint; value is the monitor's, if valid was just evaluated and finite."""
        self._await_checkpoint()
        average_buffers(self.engine)
        digest_of_all = self._digest_over_ranks()
        state = {
            "progress": {**self.progress.state_dict(), "epoch_digest": digest_of_all},
            "loader": self._loader.state_dict(),
            "loss_scale": self.step.loss_scale.state_dict(),
            "world_size": self._world.size,
        }
        texts = store.Texts(
            config=to_yaml(self.engine.experiment),
            schema=self.engine.dataset.schema.to_json(),
            plan=self.engine.layout.to_json(),
        )
        best, tensors = self.progress.best_step, self.engine.tensors()
        self._store.save(self.progress.step, tensors, state, texts, value=value, best_step=best)
        self._saving = copy.copy(self.progress)
        self.step.checkpoint_at = self._next_checkpoint()
        if not self.engine.experiment.checkpoint.asynchronous:
            self._await_checkpoint()
        self._watchdog.beat()

    def _interrupt(self) -> NoReturn:
        """Ends the run, as it was asked to, once its checkpoint is complete."""
        self._await_checkpoint()
        raise Interrupted(self.progress.step, self.step.stop.signum or SIGTERM)

    def _await_checkpoint(self) -> None:
        """Waits for the checkpoint that is being written, if there is one, and reports it."""
        if self._store.wait() is not None:
            self._observers.tell(lambda observer: observer.on_checkpoint(self._saving))

    def _next_checkpoint(self) -> float:
        """Time of the next checkpoint by time. Rank 0 alone has one, so that all ranks agree."""
        seconds = self.engine.experiment.checkpoint.every_seconds
        return time.monotonic() + seconds if seconds and self._world.is_main else math.inf

    def _resume(self) -> int | None:
        """Loads the newest sound checkpoint; its step, or None if there is none."""
        run_on_main(self._store.remove_leftovers)
        paths = run_on_main(partial(store.complete, self._store.directory))
        for path in reversed(paths):
            try:
                return self._resume_from(path)
            except DamagedCheckpointError as error:
                if path == paths[0]:
                    raise DamagedCheckpointError(
                        f"{error} There is no older one of this run; give another --run-name to "
                        "begin anew."
                    ) from error
                _log.warning("%s Resuming from the one before it.", error)
        return None

    def _resume_from(self, path: str) -> int:
        saved: store.Opened = run_on_main(partial(store.read, path))
        check_same_model(saved, self.engine.experiment, self.engine.dataset.schema.to_json())
        store.load_tensors(saved.path, self.engine.tensors())
        self._loader.load_state_dict(saved.state["loader"])
        self.progress.load_state_dict(saved.state["progress"])
        if "loss_scale" in saved.state:
            self.step.loss_scale.load_state_dict(saved.state["loss_scale"])
        if not self._world.is_main:
            self.progress.epoch_digest = 0  # rank 0 has the whole sum
        self.progress.resume(self._config, self._loader.epoch)
        return self.progress.step

    def _finish(self) -> dict[str, Any]:
        """Evaluates the best checkpoint on test; it stays loaded."""
        self._await_checkpoint()
        if self.engine.ema is not None and not self.engine.ema.exchanged:
            self.engine.ema.exchange()  # training is over, so the averages stay in place
        progress = self.progress
        if progress.best_step is None:
            raise TrainingError(
                f"no evaluation on valid was finite in {progress.step:,} steps, so no "
                "checkpoint is the best one: see the warnings above. The newest is kept: "
                f"{self._store.path_of(progress.step)}. Lower optim.dense.lr or "
                "optim.tables.lr, or choose a train.monitor that the valid split allows, under "
                "another --run-name."
            )
        best = self._store.path_of(progress.best_step)
        if progress.best_step != progress.step:
            store.load_tensors(best, self.engine.model_tensors())
        test: dict[str, float] = {}
        if self._has_rows("test"):
            test = self._evaluate("test", self._loader.epoch - 1, math.nan)
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
            "throughput": report(self.engine, self._clock),
            "stopped": progress.stop_text,
            "workers": self._world.size,
            "data_fingerprint": self.engine.dataset.manifest.fingerprint,
        }

    def _has_rows(self, split: str) -> bool:
        found = self.engine.dataset.manifest.splits.get(split)
        return found is not None and found.rows > 0

    def _abort(self, batch: Batch, loss: Tensor) -> NoReturn:
        where = {"step": self.progress.step, "epoch": self._loader.epoch}
        abort_on_non_finite_loss(
            self.run_dir, self.engine.dataset, self._world, batch, loss, **where
        )

    def stepped(self, loss: float, norm: float, rows: int, seconds: float) -> Stepped:
        """The event of a step, from its mean loss, gradient norm, rows and duration."""
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


def _check_monitor(monitor: str, schema: Schema) -> None:
    if monitor in ("gauc", "auc+gauc") and schema.user is None:
        raise ConfigError(
            f"train.monitor = {monitor}, but data set {schema.name} has no user column. Use auc, "
            "logloss, auc-logloss or ne, or give a column the role user and preprocess again."
        )
