"""How much of a known truth an order finds."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any


def precision_recall(order: Sequence[Any], truth: Collection[Any], size: int | None = None) -> tuple[float, float]:
    """(share of the first `size` that is true, share of the truth among them); `size`: by default that of the truth.

    An order that is shorter than `size` is judged by what it holds; the precision of nothing is 0.
    """
    first = order[: len(truth) if size is None else size]
    hits = len(set(first) & set(truth))
    return hits / max(1, len(first)), hits / len(truth)


def average_precision(order: Sequence[Any], truth: Collection[Any]) -> float:
    """The area under precision over recall: the mean over the truth of the precision where each is found, 0 if never.

    sum over true i of (number of true ones among the first rank(i)) / rank(i) / |truth|
    """
    true, hits, total = set(truth), 0, 0.0
    for rank, one in enumerate(order, 1):
        if one in true:
            hits += 1
            total += hits / rank
    return total / len(true)
