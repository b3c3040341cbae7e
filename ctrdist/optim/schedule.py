"""Learning rates as a pure function of the step, so that a run resumes its schedule exactly."""

import math

from ctrdist.config.optimizers import ScheduleConfig
from ctrdist.errors import ConfigError


def check_schedule(config: ScheduleConfig) -> None:
    """Refuses settings without a meaning.

    Raises:
        ConfigError: names the setting and the allowed values.
    """
    for name in ("warmup_steps", "decay_steps"):
        if getattr(config, name) < 0:
            raise ConfigError(f"optim.schedule.{name} = {getattr(config, name)}: at least 0.")
    if config.decay == "constant" and config.decay_steps:
        raise ConfigError(
            f"optim.schedule.decay_steps = {config.decay_steps} has no effect under decay = "
            "constant. Choose linear, cosine, inverse_sqrt or step, or leave it out."
        )
    if config.decay != "constant" and not config.decay_steps:
        raise ConfigError(
            f"optim.schedule.decay = {config.decay} needs optim.schedule.decay_steps, its "
            "duration in steps; an epoch has rows / loader.batch_size of them."
        )
    for name in ("floor", "step_factor"):
        if not 0 <= getattr(config, name) <= 1:
            raise ConfigError(
                f"optim.schedule.{name} = {getattr(config, name)}: a share of the configured "
                "rate, from 0 to 1."
            )


def rate_factor(config: ScheduleConfig, step: int) -> float:
    """The factor of the configured rates in a step, of which there were `step` before."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.decay == "constant":
        return 1.0
    t, n = step - config.warmup_steps, config.decay_steps
    if config.decay == "linear":
        return config.floor + (1 - config.floor) * max(0.0, 1 - t / n)
    if config.decay == "cosine":
        return config.floor + (1 - config.floor) * (1 + math.cos(math.pi * min(t / n, 1.0))) / 2
    if config.decay == "inverse_sqrt":
        return max(config.floor, math.sqrt(n / (n + t)))
    return max(config.floor, config.step_factor ** (t // n))
