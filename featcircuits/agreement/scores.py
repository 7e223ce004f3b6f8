"""Figures that compare an estimate with the exact effects."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

FEWEST = 8
"""The fewest nodes that move for which a correlation is more than chance."""
ALIKE = 0.01
"""Effects are too alike if their standard deviation is a smaller share of their root mean square than this."""
TOO_ALIKE = "too alike to tell"


class Comparison(NamedTuple):
    """The figures of the nodes that move; NaN if these are too few or too alike to tell.

    A blind estimate, the same for all nodes, has slope 0 and no correlation: NaN.
    """

    n: int
    """The number of all nodes or edges."""
    n_moving: int
    """The number of those that move between the two runs; every estimator gives 0 for the others."""
    too_alike: bool
    """Whether fewer than `FEWEST` move, or their exact effects are nearly equal (`ALIKE`)."""
    pearson: float
    slope: float
    """The slope of the estimate over the exact effect, by least squares with an intercept: 1 is right, 0 is blind."""
    spearman: float
    overlap: float
    """The share of the k largest exact effects that are also among the k largest estimates."""
    k: int


def compare(estimate: np.ndarray, truth: np.ndarray, top: int, moves: np.ndarray | None = None) -> Comparison:
    """Compare estimated and exact effects of the same nodes or edges, over those that move by `moves` (None: all)."""
    n = len(truth)
    if moves is not None:
        estimate, truth = estimate[moves], truth[moves]
    k = min(top, max(1, len(truth) // 4)) if len(truth) else 0
    if len(truth) < FEWEST or np.std(truth) <= ALIKE * np.sqrt(np.mean(truth**2)):
        return Comparison(n, len(truth), True, math.nan, math.nan, math.nan, math.nan, k)
    if np.ptp(estimate) == 0:
        return Comparison(n, len(truth), False, math.nan, 0.0, math.nan, math.nan, k)
    return Comparison(n, len(truth), False, *_scores(estimate, truth, k), k)


def _scores(estimate: np.ndarray, truth: np.ndarray, k: int) -> tuple[float, float, float, float]:
    """The Pearson correlation, slope, Spearman correlation and overlap."""
    from scipy.stats import spearmanr

    covariance = np.cov(estimate, truth)
    pearson = covariance[0, 1] / math.sqrt(covariance[0, 0] * covariance[1, 1])
    best = (set(np.argsort(-np.abs(values), kind="stable")[:k].tolist()) for values in (estimate, truth))
    rank = float(spearmanr(estimate, truth)[0])  # type: ignore[arg-type]
    slope = covariance[0, 1] / covariance[1, 1]
    return float(pearson), float(slope), rank, len(set.intersection(*best)) / k
