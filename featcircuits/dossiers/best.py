"""The best few contexts of each feature in a stream of text, each context once, with their windows of activations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

NOTHING = -np.inf
"""The score where a feature has fewer contexts."""


@dataclass
class Candidates:
    """Tokens that may be among the best of their feature [n]."""

    feature: NDArray[np.int64]
    score: NDArray[np.float64]
    key: NDArray[np.int64]
    """Equal for tokens that count as one context."""
    place: NDArray[np.int64]
    """Where in the text the token is."""

    def only(self, which: NDArray[Any]) -> Candidates:
        return Candidates(self.feature[which], self.score[which], self.key[which], self.place[which])


class Found(Protocol):
    """Tokens where features are active [n], of which few are looked at closely."""

    @property
    def feature(self) -> NDArray[np.int64]: ...
    def key(self, which: NDArray[np.int64]) -> NDArray[np.int64]: ...
    def place(self, which: NDArray[np.int64]) -> NDArray[np.int64]: ...
    def windows(self, which: NDArray[np.int64]) -> NDArray[np.float32]:
        """[n, window]: the feature around each token."""
        ...


@dataclass
class Best:
    """`count` contexts of each of `n_features`, the highest score first; of equal scores the first that came.

    Where a context comes again, its highest score counts. What comes waits, unsorted, until it is as much as is kept,
    so that each token costs little; what cannot be among the best is dropped at once. So the result is exact:
    a token below the worst of `count` other contexts stays below the worst of whatever replaces them.
    """

    n_features: int
    count: int
    window: int
    score: NDArray[np.float64] = field(init=False)
    key: NDArray[np.int64] = field(init=False)
    place: NDArray[np.int64] = field(init=False)
    activations: NDArray[np.float32] = field(init=False)
    """[feature, count, window]: of every token of a window; NaN where there is none, or where it is a sink."""
    _least: NDArray[np.float64] = field(init=False)
    """[feature]: the score that has to be exceeded."""
    _waiting: list[tuple[Candidates, NDArray[np.float32]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        shape = (self.n_features, self.count)
        self.score = np.full(shape, NOTHING)
        self.key, self.place = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self.activations = np.full((*shape, self.window), np.nan, np.float32)
        self._least = np.full(self.n_features, NOTHING)

    def offer(self, found: Found, score: NDArray) -> None:
        """Take what may be among the best, by a score [n] each."""
        if not self.count:
            return
        (some,) = (score > self._least[found.feature]).nonzero()
        kept = Candidates(found.feature[some], score[some].astype(np.float64), found.key(some), found.place(some))
        again = (self.key[kept.feature] == kept.key[:, None]) & (self.score[kept.feature] >= kept.score[:, None])
        (new,) = (~again.any(1)).nonzero()
        if len(new) > self.score.size // 4:  # so many that it is worth leaving out at once those that others beat
            new = new[_ranked(kept.only(new), self.count)[0]]
        if len(new):
            self._waiting.append((kept.only(new), found.windows(some[new])))
        if sum(len(part.feature) for part, _ in self._waiting) > self.score.size:
            self.settle()

    def settle(self) -> None:
        """Sort in what waits."""
        if not self._waiting:
            return
        came = [part for part, _ in self._waiting]
        feature = np.concatenate([part.feature for part in came])
        moved = np.unique(feature)
        old = np.repeat(moved, self.count)
        every = Candidates(
            np.concatenate([old, feature]),
            np.concatenate([self.score[moved].ravel(), *(part.score for part in came)]),
            np.concatenate([self.key[moved].ravel(), *(part.key for part in came)]),
            np.concatenate([self.place[moved].ravel(), *(part.place for part in came)]),
        )
        chosen, rank = _ranked(every, self.count)
        at = every.feature[chosen], rank
        windows = np.concatenate(
            [self.activations[moved].reshape(len(old), self.window), *(part for _, part in self._waiting)]
        )[chosen]
        self.score[moved], self.activations[moved] = NOTHING, np.nan
        self.score[at], self.key[at], self.place[at] = every.score[chosen], every.key[chosen], every.place[chosen]
        self.activations[at] = windows
        self._least = self.score[:, -1].copy()
        self._waiting.clear()

    def tensors(self) -> Mapping[str, NDArray]:
        """What a checkpoint keeps, once settled."""
        return {"score": self.score, "key": self.key, "place": self.place, "activations": self.activations}

    def restore(self, tensors: Mapping[str, NDArray]) -> None:
        """Go on from a checkpoint."""
        for name, value in tensors.items():
            setattr(self, name, value)
        self._least = self.score[:, -1].copy()


def _ranked(every: Candidates, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(which are among the best of their feature, each one's rank there); earlier ones win ties."""
    order = np.lexsort((-every.score, every.feature))
    order = order[every.score[order] > NOTHING]
    feature, key = every.feature[order], every.key[order]
    pairs = np.lexsort((key, feature))  # stable, so that each pair's best comes first
    first = np.ones(len(order), bool)
    first[1:] = (np.diff(feature[pairs]) != 0) | (np.diff(key[pairs]) != 0)
    order = order[np.sort(pairs[first])]
    feature = every.feature[order]
    rank = np.arange(len(order)) - np.searchsorted(feature, feature)
    return order[rank < count], rank[rank < count]
