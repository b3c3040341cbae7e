"""The time of a run's steps by phase, and its ratio to the least time possible on the machine.

Two limits are measured on all workers at once, as in training: the rate of a matrix product in the
tower's precision, and that of copying memory larger than the caches. The tower's floating-point
operations and the bytes that lookups and updates of tables must move, divided by these rates, give
the floor: no implementation is faster on this machine, unless it overlaps the two.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from ctrdist.batch import Batch
from ctrdist.config.optimizers import TableOptimConfig
from ctrdist.distributed.communication_timer import TIMER
from ctrdist.distributed.process_group import sum_over_ranks
from ctrdist.models.dual_attention.pairs import PairMemory
from ctrdist.training.build import Engine

PHASES = ("loader", "forward", "backward", "optimizer", "other")
_WARM_UP = 3
"""Steps that are not timed: kernels are chosen and memory is allocated in them."""
_SAMPLED = 16
"""On a GPU one step in so many is timed, as timing waits for the device."""
_FLOAT = 4  # bytes


@dataclass
class StepClock:
    """Sums the time of steps by phase."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    steps: int = 0
    """Steps that were timed."""
    communicating: float = 0.0
    """Seconds of these steps in communication between workers."""
    flops: int = 0
    """Operations of this rank's forward pass, by :func:`count_flops`; 0 before `count`."""
    moved: int = 0
    """Bytes for this rank's ids of a step, by :func:`table_bytes`."""
    rows: int = 0
    """Rows of a step on all workers."""
    _communicated: float = 0.0
    _seen: int = 0
    _last: float = 0.0
    _timing: bool = False

    def count(self, engine: Engine, batch: Batch) -> None:
        """Counts the work of a step, once; every rank calls it in the same step."""
        if not self.rows:
            self.flops, self.moved = count_flops(engine, batch), table_bytes(engine, batch)
            self.rows = batch.global_size

    def begin(self) -> None:
        """Begins a step, whose first phase is waiting for its batch."""
        self._seen += 1
        self._timing = self._seen > _WARM_UP and (
            self.device.type == "cpu" or self._seen % _SAMPLED == 0
        )
        TIMER.recording = self._timing
        self._communicated = TIMER.seconds
        self._last = self._now()

    def mark(self, phase: str) -> None:
        """Ends a phase."""
        if self._timing:
            now = self._now()
            self.seconds[phase] += now - self._last
            self._last = now

    def end(self) -> None:
        """Ends the step."""
        self.mark("other")
        self.steps += self._timing
        if self._timing:
            self.communicating += TIMER.seconds - self._communicated
            TIMER.recording = False

    def _now(self) -> float:
        if self._timing and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Rates of one worker while the others do the same."""

    flops_per_s: float
    """Floating-point operations of a matrix product in the tower's precision."""
    bytes_per_s: float
    """Bytes read and written by a copy."""


def measure_limits(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> Limits:
    """Measures each limit for so many seconds; every rank calls it at the same time."""

    def rate(work: int, run: Callable[[], object]) -> float:
        timer = Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads())
        return work / timer.blocked_autorange(min_run_time=seconds).mean

    size = 8192 if device.type == "cuda" else 1024
    a = torch.randn(size, size, device=device, dtype=dtype)
    out = torch.empty_like(a)
    source = torch.empty(2**26 if device.type == "cuda" else 2**24, device=device)
    target = torch.empty_like(source)
    return Limits(
        flops_per_s=rate(2 * size**3, lambda: torch.mm(a, a, out=out)),
        bytes_per_s=rate(2 * source.nbytes, lambda: target.copy_(source)),
    )


def count_flops(engine: Engine, batch: Batch) -> int:
    """Counts the floating-point operations of the matrix products of a forward pass over a batch.

    Runs the forward pass without a gradient, so every rank calls it in the same step.
    """
    training = engine.model.training
    engine.model.eval()  # running statistics must not take in the batch twice
    with (
        torch.compiler.set_stance("force_eager"),  # compiled code cannot be counted
        torch.no_grad(),
        FlopCounterMode(display=False) as counter,
    ):
        engine.model(batch)
    engine.model.train(training)
    return counter.get_total_flops()


def table_bytes(engine: Engine, batch: Batch) -> int:
    """The least number of bytes that lookup and update of the batch's ids move, on all workers.

    For each id its row is read by the lookup, read and written by the update, its state is read and
    written, and its gradient read.
    """

    def moved(tables: TableOptimConfig) -> int:  # numbers for each one that is looked up
        return 4 + 2 * {"adagrad": 1, "adam": 2}.get(tables.name, 0)

    optim = engine.experiment.optim
    width = sum(dict(engine.tower.groups).values())  # type: ignore[arg-type]
    pairs: PairMemory | None = engine.model.module.pairs
    numbers = batch.sparse.values().numel() * width * moved(optim.tables)
    if pairs is not None:
        ids = sum(table.ids_per_row for table in pairs.tables) * batch.label_B.numel()
        numbers += ids * pairs.config.codebook_dim * moved(optim.codebooks or optim.tables)
    return numbers * _FLOAT


def report(engine: Engine, clock: StepClock) -> dict[str, float]:
    """Shares of the phases, and ratio to the floor; every rank calls it.

    They are means over the ranks, JSON-ready; empty if no step was timed. communication, with more
    than one worker, is the share of a step in which a worker communicates or waits for others
    (ctrdist.distributed.communication_timer). It is also part of the other shares.
    """
    if not clock.steps:  # the same number on all ranks
        return {}
    workers, device = engine.world.size, engine.world.device
    bf16 = engine.experiment.train.precision == "bfloat16"
    limits = measure_limits(device, torch.bfloat16 if bf16 else torch.float32)
    per_step = [seconds / clock.steps for seconds in clock.seconds.values()]
    work = (3.0 * clock.flops, clock.moved, limits.flops_per_s, limits.bytes_per_s)
    own = [*per_step, *work, clock.communicating / clock.steps]
    mean = sum_over_ranks(torch.tensor(own, dtype=torch.float64, device=device)) / workers
    *phases, flops, bytes_moved, flops_per_s, bytes_per_s, communicating = mean.tolist()
    step = sum(phases)
    floor = flops / flops_per_s + bytes_moved / bytes_per_s
    result = {f"share_{name}": value / step for name, value in zip(PHASES, phases, strict=True)}
    if workers > 1:
        result["communication"] = communicating / step
    return {
        "step_ms": 1000 * step,
        "samples_per_s": clock.rows / step,
        **result,
        "tower_gflops_per_worker": flops / step / 1e9,
        "matmul_gflops_per_worker": flops_per_s / 1e9,
        "tables_gb_per_s_per_worker": bytes_moved / step / 1e9,
        "copy_gb_per_s_per_worker": bytes_per_s / 1e9,
        "floor_ms": 1000 * floor,
        "times_the_floor": step / floor,
    }
