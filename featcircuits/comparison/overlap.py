"""How far two sets of weights agree: of nodes by their effects, or of edges by their weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np

from featcircuits.files.plain import plain

K = TypeVar("K", bound=Hashable)

FEWEST = 3
"""The fewest shared items that have a rank correlation."""


@dataclass(frozen=True)
class Overlap:
    """What two sets of weights w, w' have in common; NaN where there is nothing to divide by.

    `jaccard`: |both| / |either|. `weighted`: sum min(|w|, |w'|) / sum max(|w|, |w'|), an absent weight being 0; it
    compares sizes, so both must be in the same unit. `weighted_shares`: the same of |w| / sum |w|, which has no unit.
    `same_sign`: the share of shared items whose signs agree. `rank`: the Spearman correlation of |w| and |w'| over
    shared items; NaN for fewer than three, and where all are equal.
    """

    first: int
    second: int
    shared: int
    jaccard: float
    weighted: float
    weighted_shares: float
    same_sign: float
    rank: float

    @property
    def distance(self) -> float:
        """1 - `weighted`: 0 for equal sets of weights but for their signs, 1 for sets that share nothing."""
        return 1 - self.weighted

    def to_json(self) -> dict[str, Any]:
        """Plain values; NaN, which JSON lacks, becomes None."""
        return plain({**asdict(self), "distance": self.distance})


def overlap(first: Mapping[K, float], second: Mapping[K, float]) -> Overlap:
    """The overlap of two sets of weights, by what has them."""
    either = [*first, *(item for item in second if item not in first)]
    both = [item for item in first if item in second]
    w, v = (np.array([weights.get(item, 0.0) for item in either], dtype=np.float64) for weights in (first, second))
    a, b = (np.array([weights[item] for item in both], dtype=np.float64) for weights in (first, second))
    return Overlap(
        first=len(first),
        second=len(second),
        shared=len(both),
        jaccard=len(both) / len(either) if either else math.nan,
        weighted=_weighted(np.abs(w), np.abs(v)),
        weighted_shares=_weighted(*(_shares(np.abs(weights)) for weights in (w, v))),
        same_sign=float(np.mean(np.sign(a) == np.sign(b))) if both else math.nan,
        rank=_rank(np.abs(a), np.abs(b)),
    )


def overlaps_by(
    key: Callable[[K], str], first: Mapping[K, float], second: Mapping[K, float], order: Callable[[K], Any]
) -> dict[str, Overlap]:
    """The overlap of the items with each value of a key; values are in the order of their first items."""
    names = dict.fromkeys(map(key, sorted([*first, *second], key=order)))
    parts: list[dict[str, dict[K, float]]] = [{name: {} for name in names} for _ in range(2)]
    for part, weights in zip(parts, (first, second), strict=True):
        for item, weight in weights.items():
            part[key(item)][item] = weight
    return {name: overlap(parts[0][name], parts[1][name]) for name in names}


def _weighted(w: np.ndarray, v: np.ndarray) -> float:
    either = float(np.maximum(w, v).sum())
    return float(np.minimum(w, v).sum()) / either if either else math.nan


def _shares(sizes: np.ndarray) -> np.ndarray:
    total = float(sizes.sum())
    return sizes / total if total else sizes


def _rank(a: np.ndarray, b: np.ndarray) -> float:
    if len(a) < FEWEST or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    from scipy.stats import rankdata  # it takes its time

    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])
