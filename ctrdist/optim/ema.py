"""An exponential moving average of a model's weights, which a run evaluates and saves."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ctrdist.models.tables import table_of

_WIDE = "wide."
"""Beginning of the names of the wide part's weights."""


class WeightEMA:
    """a ← d a + (1 − d) w after each step, with d = min(decay, (1 + t) / (10 + t)).

    t is the number of earlier steps, so the average soon forgets the initial weights. It covers the
    dense weights, running statistics and tables under the dense Adam. Tables with a fused optimiser
    have none: the average would move every row in every step, which that optimiser avoids. Nor has
    the wide part, which is trained before. Each rank keeps its own average; averages are equal
    where the weights are.
    """

    def __init__(self, state: Mapping[str, Any], decay: float, tables: Collection[str]) -> None:
        """Starts with the current weights.

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
            and not name.startswith(_WIDE)
        }
        self._other = {name: value.clone() for name, value in self._live.items()}
        """The averages; while exchanged, the trained weights."""
        self.exchanged = False
        """True while the model holds the averages."""

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Adds the current weights to the average.

        Args:
            step: number of steps before the last one.
        """
        decay = min(self._decay, (1 + step) / (10 + step))
        average = get_ema_multi_avg_fn(decay)
        average([*self._other.values()], [*self._live.values()], None)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Lets the model compute with the averages inside the block; blocks may be nested."""
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
        """Swaps the model's weights with those kept here."""
        for name, live in self._live.items():
            kept = live.clone()
            live.copy_(self._other[name])
            self._other[name].copy_(kept)
        self.exchanged = not self.exchanged

    def averages(self) -> dict[str, Tensor]:
        """Returns name → average, with the names of the model's state_dict."""
        return dict(self._live if self.exchanged else self._other)

    def trained(self) -> dict[str, Tensor]:
        """Returns name → weight from which training continues."""
        return dict(self._other if self.exchanged else self._live)
