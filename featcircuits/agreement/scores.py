"""Numbers that compare an estimate with the truth."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


class Comparison(NamedTuple):
    """NaN where fewer than three values, or no spread, leave nothing to compare."""

    n: int
    pearson: float
    spearman: float
    slope: float
    """Of the estimate over the truth, least squares with an intercept: 1 is right, 0 is blind."""
    overlap: float
    """Share of the truth's top k by size that the estimate's top k holds."""
    k: int


def compare(estimate: np.ndarray, truth: np.ndarray, top: int) -> Comparison:
    """Two vectors of effects of the same nodes or edges."""
    from scipy.stats import spearmanr

    k = min(top, max(1, len(truth) // 4)) if len(truth) else 0
    if len(truth) < 3 or np.ptp(truth) == 0 or np.ptp(estimate) == 0:
        return Comparison(len(truth), math.nan, math.nan, math.nan, math.nan, k)
    covariance = np.cov(estimate, truth)
    pearson = covariance[0, 1] / math.sqrt(covariance[0, 0] * covariance[1, 1])
    best = (set(np.argsort(-np.abs(values), kind="stable")[:k].tolist()) for values in (estimate, truth))
    overlap = len(set.intersection(*best)) / k
    rank = float(spearmanr(estimate, truth)[0])  # type: ignore[arg-type]
    return Comparison(len(truth), float(pearson), rank, float(covariance[0, 1] / covariance[1, 1]), overlap, k)
