"""Arithmetic of FBGEMM's fused optimisers, on the looked-up rows of a dense gradient.

Each rule updates the state of the rows and returns the direction: the rule of a table with rate lr
moves these rows by −lr · direction.
"""

# R rows of a table, D columns, T rows that a step has looked up

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ctrdist.config.optimizers import MOMENT1, MOMENT2


class Update(NamedTuple):
    """Arguments of a rule."""

    rows_T: Tensor
    """(T,) int64: indices of the looked-up rows."""
    grad_TD: Tensor
    """(T, D) float32."""
    eps: float
    beta1: float
    beta2: float
    step: int
    """Number of the step, from 1."""


State = Mapping[str, Tensor]
"""Name of a state tensor → (R, D) or (R,) float32."""


def sgd(state: State, update: Update) -> Tensor:
    """(T, D): g."""
    return update.grad_TD


def adagrad(state: State, update: Update) -> Tensor:
    """(T, D): g / (√Σg² + ε)."""
    rows_T, grad_TD = update.rows_T, update.grad_TD
    sum_TD = state[MOMENT1][rows_T].addcmul_(grad_TD, grad_TD)
    state[MOMENT1][rows_T] = sum_TD
    return grad_TD / (sum_TD.sqrt() + update.eps)


def rowwise_adagrad(state: State, update: Update) -> Tensor:
    """(T, D): g / (√Σ mean_D(g²) + ε)."""
    rows_T, grad_TD = update.rows_T, update.grad_TD
    sum_T = state[MOMENT1][rows_T] + grad_TD.square().mean(dim=1)
    state[MOMENT1][rows_T] = sum_T
    return grad_TD / (sum_T.sqrt() + update.eps).unsqueeze(1)


def adam(state: State, update: Update) -> Tensor:
    """(T, D): m̂ / (√v̂ + ε); the moments of a row decay only in steps that look it up."""
    return _adam(state, update, update.grad_TD.square())


def rowwise_adam(state: State, update: Update) -> Tensor:
    """(T, D): m̂ / (√v̂ + ε) with one v for each row, the average of mean_D(g²)."""
    return _adam(state, update, update.grad_TD.square().mean(dim=1))


def _adam(state: State, update: Update, square: Tensor) -> Tensor:
    """square: (T, D) or (T,), of which the second moment is an average."""
    rows_T, beta1, beta2 = update.rows_T, update.beta1, update.beta2
    first_TD = state[MOMENT1][rows_T].lerp_(update.grad_TD, 1 - beta1)
    second = state[MOMENT2][rows_T].lerp_(square, 1 - beta2)
    state[MOMENT1][rows_T], state[MOMENT2][rows_T] = first_TD, second
    root: Tensor = torch.sqrt(second / (1 - beta2**update.step)) + update.eps
    return first_TD / (1 - beta1**update.step) / (root if root.dim() == 2 else root.unsqueeze(1))
