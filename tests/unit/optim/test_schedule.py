"""Learning rates are the function of the step that the settings describe."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctrdist.config.optimizers import ScheduleConfig
from ctrdist.errors import ConfigError
from ctrdist.optim.schedule import check_schedule, rate_factor

DECAYS = ("constant", "linear", "cosine", "inverse_sqrt", "step")


def test_without_settings_rates_are_as_configured():
    assert {rate_factor(ScheduleConfig(), step) for step in range(50)} == {1.0}


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("constant", [0.5, 1.0, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1.0, 1, 0.775, 0.55, 0.325, 0.1]),
        ("cosine", [0.5, 1.0, 1, 0.1 + 0.45 * (1 + math.sqrt(0.5)), 0.55, None, 0.1]),
        ("inverse_sqrt", [0.5, 1.0, 1, math.sqrt(4 / 5), math.sqrt(4 / 6), None, math.sqrt(0.5)]),
        ("step", [0.5, 1.0, 1, 1, 1, 1, 0.2]),
    ],
)
def test_follows_its_equation(decay, expected):
    steps = 0 if decay == "constant" else 4
    config = ScheduleConfig(
        warmup_steps=2, decay=decay, decay_steps=steps, floor=0.1, step_factor=0.2
    )
    for step, value in enumerate(expected):
        if value is not None:
            assert rate_factor(config, step) == pytest.approx(value), step


@given(
    decay=st.sampled_from(DECAYS[1:]),
    warmup=st.integers(0, 30),
    steps=st.integers(1, 40),
    floor=st.floats(0, 1),
)
def test_rises_then_never_rises_and_keeps_the_floor(decay, warmup, steps, floor):
    config = ScheduleConfig(warmup_steps=warmup, decay=decay, decay_steps=steps, floor=floor)
    factors = [rate_factor(config, step) for step in range(150)]
    assert all(0 < a <= b <= 1 for a, b in pairwise(factors[:warmup]))
    after = factors[warmup:]
    assert after[0] == pytest.approx(1)
    assert all(b <= a + 1e-12 and b >= floor - 1e-12 for a, b in pairwise(after))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decay": "cosine"}, "decay_steps"),
        ({"decay_steps": 5}, "no effect"),
        ({"warmup_steps": -1}, "at least 0"),
        ({"decay": "linear", "decay_steps": 5, "floor": 2.0}, "from 0 to 1"),
    ],
)
def test_refuses_what_means_nothing(settings, message):
    with pytest.raises(ConfigError, match=message):
        check_schedule(ScheduleConfig(**settings))
