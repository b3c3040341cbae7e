"""Decides which checkpoints are kept, from numbers alone."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from ctrdist.config.experiment import CheckpointConfig


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The facts about a whole checkpoint that retention uses."""

    step: int
    value: float | None = None
    """Value of the monitored metric, larger being better; None without an evaluation."""
    best_step: int | None = None
    """The best checkpoint at that time. A run that resumes here may end with that one."""


def superfluous(entries: Collection[Entry], current: int, config: CheckpointConfig) -> list[int]:
    """Steps of the checkpoints to remove, oldest first, after the current step's was written.

    Kept are the newest `keep`, the best `keep_best`, each multiple of `keep_every`, and those that
    any of these names as its best. A checkpoint newer than the current one is removed: a run
    resumes from an older one only if the newer one is damaged.
    """
    known = {entry.step: entry for entry in entries if entry.step <= current}
    steps = sorted(known)
    stay = {current, *steps[-max(1, config.keep) :]}
    ranked = sorted(
        (-entry.value, entry.step)
        for entry in known.values()
        if entry.value is not None and math.isfinite(entry.value)
    )
    stay.update(step for _, step in ranked[: config.keep_best])
    if config.keep_every > 0:
        stay.update(step for step in steps if step % config.keep_every == 0)
    named = {known[step].best_step for step in stay if step in known}
    return sorted(entry.step for entry in entries if entry.step not in stay | named)
