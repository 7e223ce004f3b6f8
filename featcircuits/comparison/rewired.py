"""Random circuits with the nodes and degrees of one: what its wiring is compared with."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

import numpy as np

from featcircuits.circuit.circuit import Circuit
from featcircuits.model.nodes import Endpoint, Node

SWAPS = 10
"""Tries of a swap per edge; more change nothing that one could see."""


def rewired(circuit: Circuit, seed: int = 0) -> Circuit:
    """The circuit with its edges exchanged at random: a -> b, c -> d become a -> d, c -> b.

    Exchanges are between edges that share both sites (inputs and the metric as sites), so every node keeps how many
    edges lead to it from each site and from it to each site, edges keep their weights, and all run forward. Edges
    between two sites cannot change where they have one source or one target.
    """
    generator = np.random.default_rng(seed)
    classes: dict[Hashable, list[tuple[tuple[Endpoint, Endpoint], float]]] = {}
    for (source, target), weight in circuit.edges.items():
        classes.setdefault((_where(source), _where(target)), []).append(((source, target), weight))
    edges: dict[tuple[Endpoint, Endpoint], float] = {}
    for own in classes.values():
        edges |= _exchanged(own, generator)
    return replace(circuit, edges=edges)


def _where(end: Endpoint) -> Hashable:
    return end.site if isinstance(end, Node) else end.partition("@")[0]


def _exchanged(
    edges: list[tuple[tuple[Endpoint, Endpoint], float]], generator: np.random.Generator
) -> dict[tuple[Endpoint, Endpoint], float]:
    """The edges after many tries to exchange the targets of two of them; weights stay with the sources."""
    pairs, weights = [pair for pair, _ in edges], [weight for _, weight in edges]
    present = set(pairs)
    for first, second in generator.integers(len(pairs), size=(SWAPS * len(pairs), 2)).tolist():
        (a, b), (c, d) = pairs[first], pairs[second]
        if (a, d) not in present and (c, b) not in present:
            present -= {(a, b), (c, d)}
            present |= {(a, d), (c, b)}
            pairs[first], pairs[second] = (a, d), (c, b)
    return dict(zip(pairs, weights, strict=True))
