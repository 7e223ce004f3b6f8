"""Numbers that compare an estimate with the truth."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

FEWEST = 8
"""Of fewer nodes that move, a correlation is chance."""
ALIKE = 0.01
"""Effects whose standard deviation is a smaller share of their root mean square are all the same."""
TOO_ALIKE = "too alike to tell"


class Comparison(NamedTuple):
    """All figures are of the nodes that move; NaN where these are too few or too alike to tell.

    A blind estimate, the same for all nodes, has slope 0 and no correlation: NaN.
    """

    n: int
    """All nodes or edges"""
    n_moving: int
    """Those that move between the two runs: the others' effect is 0 by every estimator"""
    too_alike: bool
    """Whether fewer than `FEWEST` move or their true effects are nearly equal (`ALIKE`)"""
    pearson: float
    slope: float
    """Of the estimate over the truth, least squares with an intercept: 1 is right, 0 is blind."""
    spearman: float
    overlap: float
    """Share of the truth's top k by size that the estimate's top k holds."""
    k: int


def compare(estimate: np.ndarray, truth: np.ndarray, top: int, moves: np.ndarray | None = None) -> Comparison:
    """Two vectors of effects of the same nodes or edges, of which those count that `moves` says (None: all)."""
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
    """Pearson, slope, Spearman, overlap."""
    from scipy.stats import spearmanr

    covariance = np.cov(estimate, truth)
    pearson = covariance[0, 1] / math.sqrt(covariance[0, 0] * covariance[1, 1])
    best = (set(np.argsort(-np.abs(values), kind="stable")[:k].tolist()) for values in (estimate, truth))
    rank = float(spearmanr(estimate, truth)[0])  # type: ignore[arg-type]
    slope = covariance[0, 1] / covariance[1, 1]
    return float(pearson), float(slope), rank, len(set.intersection(*best)) / k
