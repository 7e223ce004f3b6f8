"""Sizes of activations in bins of a fixed width in log2, the same for every feature, site and model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LOWEST, HIGHEST = -16, 16
"""Bins reach from 2^LOWEST to 2^HIGHEST; what lies outside counts in the outermost."""
PER_OCTAVE = 4
BINS = (HIGHEST - LOWEST) * PER_OCTAVE
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def bins_of(sizes: NDArray) -> NDArray[np.int64]:
    """The bin of each size: bin b holds 2^(LOWEST + b / PER_OCTAVE) up to, not including, the next edge."""
    with np.errstate(divide="ignore"):
        exponents = np.log2(sizes)
    return np.clip(np.floor((exponents - LOWEST) * PER_OCTAVE), 0, BINS - 1).astype(np.int64)


def edges() -> NDArray[np.float64]:
    """The lower edges of all bins, and the upper one of the last [BINS + 1]."""
    return np.exp2(LOWEST + np.arange(BINS + 1) / PER_OCTAVE)


def quantile(counts: NDArray[np.int64], share: float) -> float:
    """The size below which a share of the activations lies, to within its bin; inside it sizes count as evenly spread.

    "Evenly" in log2. NaN for a feature that is never active.
    """
    total = counts.sum()
    if not total:
        return np.nan
    reached = counts.cumsum()
    b = int(np.searchsorted(reached, share * total))
    inside = (share * total - (reached[b] - counts[b])) / counts[b]
    return float(np.exp2(LOWEST + (b + inside) / PER_OCTAVE))
