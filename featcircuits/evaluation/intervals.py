"""Disjoint parts of a task, and intervals from the spread of their results.

Each part draws its own ablation values, so an interval includes the variation of that draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from featcircuits.tasks.task import Task

FOLDS = 5
SMALLEST_TASK = 8 * FOLDS
"""Examples: so that each part has at least 8."""
_T_95 = 2.776
"""Student's t for a 95 % interval from five folds."""


def parts(task: Task) -> list[Task]:
    """Five interleaved parts, with the places of the whole task; none if they would be too small."""
    if len(task) < SMALLEST_TASK:
        return []
    return [task.part(task.examples[fold::FOLDS]) for fold in range(FOLDS)]


def interval(center: float, values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of a mean, from the spread of the folds' values; None unless all are valid."""
    if len(values) < FOLDS or not all(map(math.isfinite, values)):
        return None
    half = _T_95 * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return center - half, center + half
