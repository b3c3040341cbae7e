"""An exponential moving average of a model's weights, which is what a run evaluates and saves."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ctrdist.models.tables import table_of


class WeightEMA:
    """a ← d a + (1 − d) w after each step, d = min(decay, (1 + t) / (10 + t)).

    t is the number of steps before this one: the average soon forgets where it started. It is of
    the dense weights, of running statistics and of tables under the dense Adam. Tables with a fused
    optimiser have none: it would move every row in every step, which that optimiser is there to
    avoid. Each rank keeps its own; they are equal where the weights are.
    """

    def __init__(self, state: Mapping[str, Any], decay: float, tables: Collection[str]) -> None:
        """Begins with the weights as they are.

        Args:
            state: state_dict of the sharded model: tensors that share the weights' memory.
            decay: from 0 to below 1.
            tables: names of the tables under the dense Adam.
        """
        self._decay = decay
        self._live = {
            name: value.detach().as_subclass(Tensor)
            for name, value in state.items()
            if isinstance(value, Tensor)
            and value.is_floating_point()
            and ((table := table_of(name)) is None or table in tables)
        }
        self._other = {name: value.clone() for name, value in self._live.items()}
        """The averages; within `in_place` the trained weights."""
        self.exchanged = False
        """Whether the model has the averages now."""

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after the step that followed `step` others."""
        decay = min(self._decay, (1 + step) / (10 + step))
        average = get_ema_multi_avg_fn(decay)
        average([*self._other.values()], [*self._live.values()], None)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model computes with the averages; within another such block it stays so."""
        if self.exchanged:
            yield
            return
        self.exchange()
        try:
            yield
        finally:
            self.exchange()

    @torch.no_grad()
    def exchange(self) -> None:
        """Gives the model what is kept beside it, and keeps what the model had."""
        for name, live in self._live.items():
            kept = live.clone()
            live.copy_(self._other[name])
            self._other[name].copy_(kept)
        self.exchanged = not self.exchanged

    def averages(self) -> dict[str, Tensor]:
        """Name → average, by the names of the model's state_dict."""
        return dict(self._live if self.exchanged else self._other)

    def trained(self) -> dict[str, Tensor]:
        """Name → weight that training goes on from."""
        return dict(self._other if self.exchanged else self._live)
