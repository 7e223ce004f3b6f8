"""How much of each feature's activation is on which token, kept for the pairs that occur."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

KEPT = 256
"""Tokens of a feature, on average, beyond which the smallest are dropped."""
DENSE = 1 << 20
"""Sums of all pairs that are kept where there are no more: adding to them is quicker."""
_WAITING = 1 << 18
"""Activations that are added up at once."""


@dataclass
class Mass:
    """Sums of sizes [feature, token], and those of whole features [feature].

    Exact as long as there are fewer than KEPT tokens for each feature on average; beyond that, those with the least
    are dropped, so that what is kept may be too small (by what was dropped of the same token), never too large.
    """

    n_features: int
    vocabulary: int
    dropped: bool = False
    total: NDArray[np.float64] = field(init=False)
    _sums: Any = field(init=False)
    """A sparse matrix, or an array."""
    _waiting: list[tuple[NDArray, NDArray, NDArray]] = field(default_factory=list)

    def __post_init__(self) -> None:
        shape = self.n_features, self.vocabulary
        self.total = np.zeros(self.n_features)
        self._sums = np.zeros(shape) if self.n_features * self.vocabulary <= DENSE else csr_matrix(shape)

    @property
    def _dense(self) -> bool:
        return isinstance(self._sums, np.ndarray)

    def add(self, feature: NDArray[np.int64], token: NDArray[np.int64], size: NDArray) -> None:
        if self._dense:
            np.add.at(self._sums.ravel(), feature * self.vocabulary + token, size.astype(np.float64))
            return
        self._waiting.append((feature, token, size))
        if sum(len(part) for part, _, _ in self._waiting) > max(_WAITING, self._sums.nnz):
            self.settle()

    def settle(self) -> None:
        """Add up what waits."""
        if self._dense:
            self.total = self._sums.sum(1)
        elif self._waiting:
            feature, token, size = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
            new = csr_matrix((size.astype(np.float64), (feature, token)), shape=self._sums.shape)
            self.total += np.asarray(new.sum(1)).ravel()
            self._sums = self._sums + new
            self._waiting.clear()
            if self._sums.nnz > KEPT * self.n_features:
                self._drop()

    def _drop(self) -> None:
        """The largest half of what may be kept stays, for each feature."""
        sums, rows = self._sums, np.repeat(np.arange(self.n_features), np.diff(self._sums.indptr))
        order = np.lexsort((-sums.data, rows))
        kept = np.sort(order[np.arange(len(order)) - sums.indptr[rows] < KEPT // 2])
        self._sums = csr_matrix((sums.data[kept], (rows[kept], sums.indices[kept])), shape=sums.shape)
        self.dropped = True

    def largest(self, feature: int, count: int) -> list[tuple[int, float]]:
        """(token, its share) of a feature's tokens with the most, the most first; of equal ones the lowest id."""
        tokens, sums = self._row(feature)
        order = np.lexsort((tokens, -sums))[:count]
        total = self.total[feature]
        return [(int(tokens[i]), float(sums[i] / total)) for i in order if sums[i] > 0]

    def _row(self, feature: int) -> tuple[NDArray, NDArray]:
        """(tokens, their sums)"""
        if self._dense:
            (tokens,) = self._sums[feature].nonzero()
            return tokens, self._sums[feature, tokens]
        part = slice(*self._sums.indptr[feature : feature + 2])
        return self._sums.indices[part], self._sums.data[part]

    def tensors(self) -> Mapping[str, NDArray]:
        """What a checkpoint keeps, once settled."""
        sums = csr_matrix(self._sums)
        return {
            "total": self.total, "data": sums.data, "indices": sums.indices, "indptr": sums.indptr,
            "dropped": np.array(self.dropped),
        }  # fmt: skip

    def restore(self, tensors: Mapping[str, NDArray]) -> None:
        """Go on from a checkpoint."""
        self.total, self.dropped = tensors["total"], bool(tensors["dropped"])
        parts = (tensors["data"], tensors["indices"], tensors["indptr"])
        sums = csr_matrix(parts, shape=(self.n_features, self.vocabulary))
        self._sums = sums.toarray() if self._dense else sums
