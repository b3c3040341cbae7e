"""Which checkpoints stay."""

import math

from hypothesis import given
from hypothesis import strategies as st

from ctrdist.checkpoint.store import Entry, superfluous
from ctrdist.config.experiment import CheckpointConfig


def kept(entries: list[Entry], **config: int) -> list[int]:
    current = entries[-1].step
    gone = superfluous(entries, current, CheckpointConfig(**config))
    return [entry.step for entry in entries if entry.step not in gone]


def plain(*steps: int) -> list[Entry]:
    return [Entry(step=step) for step in steps]


def test_the_newest_stay():
    assert kept(plain(1, 2, 3, 4), keep=2) == [3, 4]
    assert kept(plain(1), keep=2) == [1]


def test_keep_below_one_still_keeps_the_one_just_written():
    assert kept(plain(1, 2, 3), keep=0) == [3]


def test_the_best_stay_and_of_equals_the_first():
    values = {1: 0.5, 2: 0.9, 3: 0.7, 4: 0.9, 5: 0.1, 6: float("nan"), 7: None}
    entries = [Entry(step=step, value=value) for step, value in values.items()]
    assert kept(entries, keep=1, keep_best=1) == [2, 7]
    assert kept(entries, keep=1, keep_best=3) == [2, 3, 4, 7]
    assert kept(entries, keep=1, keep_best=0) == [7]


def test_every_n_steps_stay_for_good():
    assert kept(plain(100, 150, 200, 250, 300, 310), keep=1, keep_every=100) == [100, 200, 300, 310]


def test_what_a_kept_checkpoint_names_as_its_best_stays():
    entries = [
        Entry(step=1, value=0.5, best_step=1),
        Entry(step=2, best_step=1),
        Entry(step=3, value=0.6, best_step=3),
    ]
    assert kept(entries, keep=2) == [1, 2, 3]
    assert kept(entries, keep=1) == [3]


def test_a_value_that_is_not_finite_is_never_best():
    values = (0.5, math.inf, math.nan, -math.inf)
    entries = [Entry(step=step, value=value) for step, value in enumerate(values, 1)]
    assert kept([*entries, Entry(step=9)], keep=1, keep_best=2) == [1, 9]


def test_a_checkpoint_newer_than_the_one_just_written_is_removed():
    """A run resumes from an older checkpoint only if the newer one is damaged."""
    gone = superfluous(plain(10, 20, 30), 20, CheckpointConfig(keep=2, keep_every=10))
    assert gone == [30]


@given(
    steps=st.lists(st.integers(1, 99), min_size=1, unique=True),
    values=st.lists(st.none() | st.floats(), min_size=99, max_size=99),
    keep=st.integers(0, 4),
    keep_best=st.integers(0, 4),
    keep_every=st.integers(0, 20),
)
def test_one_save_removes_no_more_than_it_must(steps, values, keep, keep_best, keep_every):
    steps.sort()
    entries = [Entry(step=step, value=values[step - 1]) for step in steps]
    config = {"keep": keep, "keep_best": keep_best, "keep_every": keep_every}
    stay = kept(entries, **config)
    assert set(steps[-max(1, keep) :]) <= set(stay)
    assert len(stay) <= max(1, keep) + keep_best + (99 // keep_every if keep_every else 0)
    again = [entry for entry in entries if entry.step in stay]
    assert kept(again, **config) == stay
