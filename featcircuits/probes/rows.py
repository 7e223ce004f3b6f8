"""How well predictions tell the label, and how far they follow the cue."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from featcircuits.probes.texts import Text

_RESAMPLES = 1000


class Figure(NamedTuple):
    """A share of the texts, and the 95 % interval from resampled texts."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """One way to classify the test texts.

    `label`: accuracy for the label (higher is better). `cue`: share of texts whose predicted class is their cue
    (.5 is best where the two are independent). `worst`: the label's accuracy in the worst of the four groups of label
    and cue. `removed`: how many nodes were set to 0 in the model.
    """

    name: str
    label: Figure
    cue: Figure
    worst: Figure
    removed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        figures = {name: getattr(self, name)._asdict() for name in ("label", "cue", "worst")}
        return {"name": self.name, **figures, "removed": self.removed}


def row(name: str, predicted: Tensor | Iterable[Tensor], texts: Sequence[Text], seed: int, removed: int = 0) -> Row:
    """The row of predicted classes [n]; several draws of them count as their mean."""
    draws = [predicted] if isinstance(predicted, Tensor) else list(predicted)
    share = torch.stack(draws).double().mean(0).numpy()
    label, cue = (np.array([getattr(text, what) for text in texts]) for what in ("label", "cue"))
    right, follows = (np.where(wanted == 1, share, 1 - share) for wanted in (label, cue))
    group = 2 * label + cue
    some = np.random.default_rng(seed).integers(len(texts), size=(_RESAMPLES, len(texts)))
    return Row(
        name,
        _figure(right.mean(), right[some].mean(1)),
        _figure(follows.mean(), follows[some].mean(1)),
        _figure(_worst(right[None], group[None])[0], _worst(right[some], group[some])),
        removed,
    )


def _worst(right: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The smallest accuracy of the four groups in each resample; groups that it lacks do not count."""
    shares = np.stack([np.where(group == n, right, 0).sum(1) / np.maximum((group == n).sum(1), 1) for n in range(4)])
    lacking = np.stack([~(group == n).any(1) for n in range(4)])
    return np.where(lacking, np.inf, shares).min(0)


def _figure(value: float, resampled: np.ndarray) -> Figure:
    low, high = np.quantile(resampled, (0.025, 0.975))
    return Figure(float(value), float(low), float(high))
