"""Scores over circuit sizes, compared with random circuits of the same size at each site."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import numpy as np
from torch import Tensor

from featcircuits.errors import InputError
from featcircuits.evaluation.ablated import Ranks, Subgraph
from featcircuits.evaluation.faithfulness import Reference, area, area_from_one, faithfulness
from featcircuits.evaluation.report import Curve
from featcircuits.model.nodes import Node

_T = TypeVar("_T")


def default_sizes(order: Sequence[Node], count: int = 15) -> tuple[int, ...]:
    """At most `count` sizes, evenly spread on a logarithmic axis up to all nodes.

    Each residual site is a full cut: what does not pass through a kept node there is ablated. So the smallest
    circuit that can explain anything has one node at each, and the curve begins one above that.
    """
    n_cuts = len({node.site for node in order if node.site.kind == "resid"})
    smallest = min(n_cuts + 1, len(order))
    return tuple(sorted({round(size) for size in np.geomspace(smallest, len(order), count)})) if order else ()


def check_sizes(sizes: Sequence[int], n_nodes: int) -> tuple[int, ...]:
    """Raise `InputError` for sizes that the ranking does not have."""
    if wrong := [size for size in sizes if not 0 < size <= n_nodes]:
        raise InputError(
            f"curve size {wrong[0]}: the ranking has {n_nodes} nodes in scope; give sizes from 1 to that number"
        )
    return tuple(sorted(set(sizes)))


def shuffled(order: Sequence[Node], seed: int) -> list[Node]:
    """The nodes of each site in random order, at the site's ranks.

    So the first k of them are a random circuit with as many nodes at every site as the k
    strongest have.
    """
    return shuffled_within(order, seed, lambda node: node.site)


def shuffled_within(order: Sequence[_T], seed: int, kind: Callable[[_T], Hashable]) -> list[_T]:
    """What is of one kind in random order, at the ranks of that kind."""
    generator = np.random.default_rng(seed)
    by_kind: dict[Hashable, list[int]] = {}
    for rank, one in enumerate(order):
        by_kind.setdefault(kind(one), []).append(rank)
    result = list(order)
    for ranks in by_kind.values():
        for rank, source in zip(ranks, generator.permutation(ranks), strict=True):
            result[rank] = order[source]
    return result


def mean_and_spread(draws: np.ndarray) -> tuple[list[float], list[float]]:
    """The mean and the standard deviation over draws [draw, size]; NaN without draws, or with one."""
    undefined = np.full(draws.shape[1], math.nan)
    mean = draws.mean(0) if len(draws) else undefined
    return mean.tolist(), (draws.std(0, ddof=1) if len(draws) > 1 else undefined).tolist()


def subgraphs_of_sizes(ranks: Ranks, controls: Sequence[Ranks], sizes: Sequence[int]) -> list[Subgraph]:
    """The subgraphs of a curve: every size of a ranking, every complement, and every size of random rankings."""
    return [
        *(Subgraph(ranks, size) for size in sizes),
        *(Subgraph(ranks, size, complement=True) for size in sizes),
        *(Subgraph(control, size) for control in controls for size in sizes),
    ]


def curve_of(metrics: Tensor, sizes: Sequence[int], reference: Reference) -> Curve:
    """The curve of `subgraphs_of_sizes`, from their F [subgraph, example]."""
    scores = np.array([faithfulness(mean, reference) for mean in metrics.mean(-1).tolist()]).reshape(-1, len(sizes))
    inside, complement, random = scores[0], scores[1], scores[2:]
    random_mean, random_sd = mean_and_spread(random)
    return Curve(
        sizes=tuple(sizes),
        faithfulness=tuple(inside.tolist()),
        completeness=tuple(complement.tolist()),
        random=tuple(random_mean),
        random_sd=tuple(random_sd),
        draws=len(random),
        area=area(sizes, inside.tolist()),
        area_from_one=area_from_one(sizes, inside.tolist()),
        area_random=area(sizes, random_mean),
        area_over=(0, sizes[-1]),
    )
