"""Faithfulness and completeness from mean metrics, and the areas under their curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

_SMALLEST_GAP = 1e-3
"""If m(M) - m(empty) is below this share of the metric's spread, it is too small to divide by."""


class Reference(NamedTuple):
    """The two ends of the scale of faithfulness: mean F of the whole model, and with everything ablated."""

    model: float
    empty: float


def faithfulness(circuit: float, reference: Reference) -> float:
    """(m(C) - m(empty)) / (m(M) - m(empty)) of a circuit C; never clipped (Marks et al. 2024, section 4).

    Completeness is the same for the circuit's complement. NaN if model and empty circuit have the same metric.
    """
    model, empty = reference
    return (circuit - empty) / (model - empty) if model != empty else math.nan


def invalid_reason(model: Tensor, empty: Tensor) -> str | None:
    """Why the ratio would mean nothing, from F(M) and F(empty) per example; None if it means something."""
    gap = float(model.mean() - empty.mean())
    spread = float(model.abs().mean() + empty.abs().mean())
    if abs(gap) <= _SMALLEST_GAP * spread:
        return f"ablating everything changes the metric by only {gap:.2g}: there is nothing to explain"
    if gap < 0:
        return f"ablating everything raises the metric by {-gap:.3g}: the model does not show the behaviour here"
    return None


def area(sizes: Sequence[int], values: Sequence[float], at_zero: float = 0.0) -> float:
    """The mean height of a curve over the number of nodes, from `at_zero` at the empty circuit (trapezoids)."""
    x, y = np.array([0, *sizes], dtype=float), np.array([at_zero, *values])
    return float(np.trapezoid(y, x) / x[-1])


def area_from_one(sizes: Sequence[int], values: Sequence[float]) -> float:
    """The mean of |1 - faithfulness|: overshooting 1 counts as much as falling short of it."""
    return area(sizes, [abs(1 - value) for value in values], at_zero=1.0)
