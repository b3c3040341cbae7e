"""Which checkpoints stay: decided here, by numbers alone."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from ctrdist.config.experiment import CheckpointConfig


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A whole checkpoint, as far as retention looks at it."""

    step: int
    value: float | None = None
    """Of the monitor, larger being better; None where it was not evaluated."""
    best_step: int | None = None
    """The best checkpoint as it was then: a run that goes on from here may end with that one."""


def superfluous(entries: Collection[Entry], current: int, config: CheckpointConfig) -> list[int]:
    """Steps of the checkpoints to remove, oldest first.

    Stay: the newest `keep`, the best `keep_best`, each multiple of `keep_every`, and what any of
    these names as its best. What is newer than the current one goes: a run is only ever behind a
    whole checkpoint when that one proved damaged.

    Args:
        entries: all whole checkpoints.
        current: step of the one just written.
        config: keep, keep_best, keep_every.
    """
    known = {entry.step: entry for entry in entries if entry.step <= current}
    steps = sorted(known)
    stay = {current, *steps[-max(1, config.keep) :]}
    ranked = sorted(
        (-entry.value, entry.step)
        for entry in known.values()
        if entry.value is not None and not math.isnan(entry.value)
    )
    stay.update(step for _, step in ranked[: config.keep_best])
    if config.keep_every > 0:
        stay.update(step for step in steps if step % config.keep_every == 0)
    named = {known[step].best_step for step in stay if step in known}
    return sorted(entry.step for entry in entries if entry.step not in stay | named)
