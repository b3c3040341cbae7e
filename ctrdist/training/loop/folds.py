"""Cross-validation over the training rows: chooses the epoch and the tower's share of the blend.

Where valid has few rows or clicks it tells little about a tower. Here each training row is judged
by a model that has not seen it, and there are several times as many of them.
"""

# B rows of this worker, S rows of its lookups, C categorical fields, N ids, E epochs, A shares α

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from signal import SIGTERM
from typing import NoReturn

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ctrdist.batch import TOWER_LOGITS, WIDE_LOGITS, Batch
from ctrdist.config.experiment import Experiment
from ctrdist.data.loader import Loader
from ctrdist.data.manifest import Dataset
from ctrdist.data.rows import weights_of_log
from ctrdist.distributed.process_group import World, sum_over_ranks
from ctrdist.errors import TrainingError
from ctrdist.training.build import Engine, build_engine
from ctrdist.training.faults.stopping import Interrupted, StopRequest
from ctrdist.training.loop.blend import SHARES, gain_sums, lower_bounds
from ctrdist.training.loop.evaluate import average_buffers, evaluation_loader
from ctrdist.training.loop.prefetch import Prefetcher
from ctrdist.training.loop.state import Progress
from ctrdist.training.loop.step import Step
from ctrdist.training.loop.wide import train_wide
from ctrdist.training.observe.abundance import refresh_abundance
from ctrdist.training.observe.observers import Observers
from ctrdist.training.observe.throughput import StepClock

_MIXER = 0x9E3779B97F4A7C15 - 2**64  # 2⁶⁴ over the golden ratio, as a signed number


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The model that cross-validation has chosen."""

    epochs: int
    """Epochs of the tower's training; 0: the model is its wide part."""
    share: float
    """α, the tower's share of the log-odds."""
    gain: float
    """Mean log loss of the wide part less that of the blend, over the training rows."""
    bound: float
    """The gain less its margin."""


class FoldRows:
    """The batches of a loader without the rows of a fold, or with these alone."""

    def __init__(self, loader: Loader, fold: int, folds: int, *, held: bool = False) -> None:
        """Every rank reads its own rows; held gives the rows of the fold."""
        self._loader, self._fold, self._folds, self._held = loader, fold, folds, held

    def __iter__(self) -> Iterator[Batch]:
        """Yields batches; those that are left with a row for no worker, or for one, are skipped."""
        for batch in self._loader:
            held_B = fold_of(batch.row_B, self._folds) == self._fold
            keep_B = held_B if self._held else ~held_B
            rows = int(sum_over_ranks(keep_B.sum().double().view(1)))
            if self._held or rows > 1:
                yield select_rows(batch, keep_B, rows)

    def in_pairs(self) -> Iterator[tuple[Batch, Batch | None]]:
        """Yields each batch beside the next one, or None at the end."""
        ends: Iterator[tuple[Batch | None, Batch | None]] = pairwise(chain(self, [None]))
        return ((batch, after) for batch, after in ends if batch is not None)


def fold_of(row_B: Tensor, folds: int) -> Tensor:
    """(B,) the fold of each row, by a hash of its (B,) index in the split."""
    return (((row_B + 1) * _MIXER) >> 33).remainder(folds)


def select_rows(batch: Batch, keep_B: Tensor, global_size: int) -> Batch:
    """Returns the rows of a batch for which the (B,) bools are true, in their order.

    The stride of the lookup stays, since it is the same on all workers.
    """
    sparse, size = batch.sparse, len(keep_B)
    lengths_CS = sparse.lengths().view(len(sparse.keys()), -1)
    keep_CS = torch.zeros_like(lengths_CS, dtype=torch.bool)
    keep_CS[:, :size] = keep_B
    kept_CS = torch.zeros_like(lengths_CS)
    kept_CS[:, : int(keep_B.sum())] = lengths_CS[:, :size][:, keep_B]
    keep_N = keep_CS.flatten().repeat_interleave(lengths_CS.flatten())
    selected = KeyedJaggedTensor(
        sparse.keys(),
        sparse.values()[keep_N],
        lengths=kept_CS.flatten(),
        stride=lengths_CS.shape[1],
    )
    return Batch(
        numeric_BK=batch.numeric_BK[keep_B],
        sparse=selected,
        label_B=batch.label_B[keep_B],
        row_B=batch.row_B[keep_B],
        user_B=None if batch.user_B is None else batch.user_B[keep_B],
        weight_B=None if batch.weight_B is None else batch.weight_B[keep_B],
        global_size=global_size,
    )


def cross_validate(
    experiment: Experiment,
    dataset: Dataset,
    world: World,
    stop: StopRequest,
    begin_fold: Callable[[int], None],
    beat: Callable[[], None],
) -> Choice:
    """Trains the model on the rows outside each of train.folds folds; judges it by those inside.

    Every rank calls it. The epoch and the share are those with the largest mean gain − margin over
    all training rows, see :func:`ctrdist.training.loop.blend.lower_bounds`; 0 and 0 if none is
    above 0.

    Args:
        experiment: with a wide part.
        dataset: whose train split is used; valid chooses the strength of the wide part.
        world: the workers.
        stop: may ask to end.
        begin_fold: is called with the index of each fold.
        beat: is called after each step.

    Raises:
        Interrupted: `stop` has asked, on this rank or another; nothing was saved.
        TrainingError: a loss is not finite.
    """
    sums_2EA = torch.zeros(2, experiment.train.epochs, len(SHARES), dtype=torch.float64)
    weight = 0.0
    for fold in range(experiment.train.folds):
        begin_fold(fold)
        training = _FoldTraining(build_engine(experiment, dataset, world), fold, stop, beat)
        sums_2EA += training.gains()
        weight += training.weight
    train = dataset.split("train")
    sums_2EA = sum_over_ranks(sums_2EA.to(world.device)).cpu()
    mean_EA, bound_EA = lower_bounds(
        *sums_2EA, rows=train.rows, positives=train.positives, weight=weight
    )
    best = int(bound_EA.argmax())
    epoch, a = divmod(best, len(SHARES))
    bound = float(bound_EA[epoch, a])
    if a == 0 or bound <= 0:
        return Choice(epochs=0, share=0.0, gain=0.0, bound=0.0)
    gain = float(mean_EA[epoch, a])
    return Choice(epochs=epoch + 1, share=float(SHARES[a]), gain=gain, bound=bound)


class _FoldTraining:
    """Trains on the rows outside a fold."""

    def __init__(
        self, engine: Engine, fold: int, stop: StopRequest, beat: Callable[[], None]
    ) -> None:
        self._engine, self._fold, self._stop, self._beat = engine, fold, stop, beat
        self._folds = engine.experiment.train.folds
        self.weight = 0.0
        """Sum of the weights of all workers' rows of the fold, once they are judged."""
        self._progress = Progress(chosen_epochs=0)  # no epoch is the best here
        self._prefetcher = Prefetcher(engine)
        self._step = Step(
            engine=engine,
            progress=self._progress,
            prefetcher=self._prefetcher,
            clock=StepClock(engine.world.device),
            observers=Observers([]),
            abort=self._abort,
            stop=stop,
        )

    def gains(self) -> Tensor:
        """(2, E, A) sums of gains and of their squares over this worker's rows of the fold.

        Once the tower has stopped to improve, later epochs count like the last one.
        """
        engine, train, world = self._engine, self._engine.experiment.train, self._engine.world
        sums_2EA = torch.zeros(2, train.epochs, len(SHARES), dtype=torch.float64)
        train_wide(engine, self._beat, self._stop, self._outside)
        loader = Loader(
            engine.dataset,
            "train",
            engine.experiment.loader,
            seed=train.seed,
            rank=world.rank,
            world_size=world.size,
            pinned=world.device.type == "cuda",
        )
        for epoch in range(train.epochs):
            self._train_epoch(loader)
            sums_2EA[:, epoch:], tower_logloss = self._judge()
            # the fold itself decides when the rates fall: the whole run will have valid for that
            self._progress.judge({"tower_logloss": tower_logloss}, train)
            if self._progress.stopped is not None:
                break
        return sums_2EA

    def _outside(self, loader: Loader) -> FoldRows:
        return FoldRows(loader, self._fold, self._folds)

    def _train_epoch(self, loader: Loader) -> None:
        for batch, on_device in self._prefetcher.batches(self._outside(loader)):
            loss, _ = self._step.take(on_device)
            self._progress.add_rows(batch.global_size, 0, loss)
            self._beat()
            if self._step.stop_agreed:
                raise Interrupted(0, int(self._stop.signum) or SIGTERM)
        refresh_abundance(self._engine)
        loader.next_epoch()

    def _judge(self) -> tuple[Tensor, float]:
        """(2, 1, A) sums over the fold's rows here, and the tower's log loss on all its rows."""
        engine = self._engine
        kept = engine.dataset.split("train").negatives_kept
        average_buffers(engine)
        sums_2A, losses = torch.zeros(2, len(SHARES), dtype=torch.float64), torch.zeros(2).double()
        loader = evaluation_loader(engine, "train")
        engine.model.eval()
        with engine.averaged(), torch.no_grad(), engine.autocast():
            for batch in FoldRows(loader, self._fold, self._folds, held=True):
                aux = engine.model(batch.to(engine.world.device)).aux
                wide_B, tower_B = aux[WIDE_LOGITS].cpu(), aux[TOWER_LOGITS].cpu()
                weight_B = weights_of_log(batch, kept)
                sums, loss, weight = gain_sums(wide_B, tower_B, batch.label_B, weight_B)
                sums_2A += sums
                losses += torch.tensor([loss, weight], dtype=torch.float64)
                self._beat()
        engine.model.train()
        loss, self.weight = sum_over_ranks(losses.to(engine.world.device)).tolist()
        return sums_2A.unsqueeze(1), loss / (self.weight or 1.0)

    def _abort(self, batch: Batch, loss: Tensor) -> NoReturn:
        raise TrainingError(
            f"cross-validation, fold {self._fold + 1}, step {self._progress.step:,}: the loss is "
            "not finite. Look for numeric values that are huge, or lower optim.dense.lr or "
            "optim.tables.lr. With train.folds 0 the run finds the rows."
        )
