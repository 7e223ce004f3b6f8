"""Scores over circuit sizes, beside random circuits of the same size at each site."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from featcircuits.errors import InputError
from featcircuits.evaluation.ablated import Ranks, Subgraph
from featcircuits.evaluation.faithfulness import area, area_from_one, share
from featcircuits.evaluation.report import Curve
from featcircuits.model.nodes import Node

Run = Callable[[Sequence[Subgraph]], Tensor]
"""Subgraphs -> F [subgraph, example]."""


def default_sizes(order: Sequence[Node], count: int = 15) -> tuple[int, ...]:
    """At most `count` sizes, evenly spread on a logarithmic axis up to all nodes.

    Each residual site is a full cut: what does not pass a node there is ablated. So the smallest
    circuit that can explain anything has a node at each, and the curve begins one above that.
    """
    n_cuts = len({node.site for node in order if node.site.kind == "resid"})
    smallest = min(n_cuts + 1, len(order))
    return tuple(sorted({round(size) for size in np.geomspace(smallest, len(order), count)})) if order else ()


def check_sizes(sizes: Sequence[int], n_nodes: int) -> tuple[int, ...]:
    """Refuse sizes that the ranking does not have."""
    if wrong := [size for size in sizes if not 0 < size <= n_nodes]:
        raise InputError(f"curve size {wrong[0]}: the ranking has {n_nodes} nodes in scope; sizes run from 1 to that")
    return tuple(sorted(set(sizes)))


def shuffled(order: Sequence[Node], seed: int) -> list[Node]:
    """The nodes of each site in random order, at the ranks that the site has.

    The first k of them are then a random circuit with as many nodes at every site as the k
    strongest have.
    """
    generator = np.random.default_rng(seed)
    by_site: dict[object, list[int]] = {}
    for rank, node in enumerate(order):
        by_site.setdefault(node.site, []).append(rank)
    result = list(order)
    for ranks in by_site.values():
        for rank, source in zip(ranks, generator.permutation(ranks), strict=True):
            result[rank] = order[source]
    return result


def curve(
    run: Run,
    ranked: Callable[[Sequence[Node]], Ranks],
    order: Sequence[Node],
    sizes: Sequence[int],
    model_and_empty: tuple[float, float],
    draws: int,
    seed: int,
) -> Curve:
    """All sizes, complements and random draws as rows of one batched pass."""
    ranks = ranked(order)
    controls = [ranked(shuffled(order, seed + draw)) for draw in range(draws)]
    subgraphs = [Subgraph(ranks, size) for size in sizes]
    subgraphs += [Subgraph(ranks, size, complement=True) for size in sizes]
    subgraphs += [Subgraph(control, size) for control in controls for size in sizes]
    means = run(subgraphs).mean(-1).tolist()
    scores = np.array([share(mean, *model_and_empty) for mean in means]).reshape(2 + draws, len(sizes))
    random = scores[2:]
    random_mean = random.mean(0) if draws else np.full(len(sizes), math.nan)
    return Curve(
        sizes=tuple(sizes),
        faithfulness=tuple(scores[0].tolist()),
        completeness=tuple(scores[1].tolist()),
        random=tuple(random_mean.tolist()),
        random_sd=tuple(random.std(0, ddof=1).tolist()) if draws > 1 else (math.nan,) * len(sizes),
        draws=draws,
        area=area(sizes, scores[0].tolist()),
        area_from_one=area_from_one(sizes, scores[0].tolist()),
        area_random=area(sizes, random_mean.tolist()),
        area_over=(0, sizes[-1]),
    )
