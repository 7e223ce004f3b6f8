"""fc.compare: how much circuits have in common, in nodes and in edges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from featcircuits.circuit.circuit import Circuit
from featcircuits.circuit.pruning import among
from featcircuits.comparison.belonging import check_comparable, notes_on
from featcircuits.comparison.overlap import Overlap, overlap, overlaps_by
from featcircuits.comparison.places import KEEP, with_places
from featcircuits.comparison.union import union
from featcircuits.errors import InputError, known
from featcircuits.model.nodes import METRIC, Endpoint, Node
from featcircuits.model.sites import EMBED, Site

Edge = tuple[Endpoint, Endpoint]


@dataclass(frozen=True)
class Pair:
    """Two circuits beside each other. `edges` is None where one of them has none.

    Parts of nodes are by layer ("layer 2", "embed") and kind of site, parts of edges by the layer of the target and by
    the kinds at both ends ("attn -> resid", "resid -> metric").
    """

    first: str
    second: str
    nodes: Overlap
    edges: Overlap | None
    nodes_by_layer: Mapping[str, Overlap]
    nodes_by_kind: Mapping[str, Overlap]
    edges_by_layer: Mapping[str, Overlap]
    edges_by_kind: Mapping[str, Overlap]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        parts = ("nodes_by_layer", "nodes_by_kind", "edges_by_layer", "edges_by_kind")
        return {
            "first": self.first,
            "second": self.second,
            "nodes": self.nodes.to_json(),
            "edges": None if self.edges is None else self.edges.to_json(),
            **{name: {key: found.to_json() for key, found in getattr(self, name).items()} for name in parts},
        }


@dataclass(frozen=True, eq=False)
class Comparison:
    """Circuits, as they were compared, and every pair of them. `notes`: sentences that a reader needs to know."""

    circuits: Mapping[str, Circuit]
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The circuits' names, in the order in which they were given."""
        return tuple(self.circuits)

    def distances(self, what: str = "nodes") -> np.ndarray:
        """1 - weighted Jaccard of each two circuits [circuit, circuit], of "nodes" or "edges"; NaN without edges."""
        if what not in ("nodes", "edges"):
            raise InputError(f"unknown part of a circuit {what!r}; {known(('nodes', 'edges'), what)}")
        number = {name: at for at, name in enumerate(self.names)}
        table = np.zeros((len(number), len(number)))
        for pair in self.pairs:
            found: Overlap | None = getattr(pair, what)
            at = number[pair.first], number[pair.second]
            table[at] = table[at[::-1]] = np.nan if found is None else found.distance
        return table

    def shared(self, name: str) -> Circuit:
        """The nodes and edges that all circuits have, with their effects in the circuit of this name."""
        own, others = self._apart(name)
        nodes = {node for node in own.nodes if all(node in other.nodes for other in others)}
        return _with_edges(own, nodes, {edge for edge in own.edges if all(edge in other.edges for other in others)})

    def own(self, name: str) -> Circuit:
        """The nodes of this circuit that no other has, and the edges among them, to the metric and from inputs."""
        own, others = self._apart(name)
        return among({node for node in own.nodes if not any(node in other.nodes for other in others)}, own)

    def union(self) -> Circuit:
        """All circuits as one, coloured in every export by which circuits have a node or edge (`union`)."""
        return union(self.circuits)

    def _apart(self, name: str) -> tuple[Circuit, list[Circuit]]:
        if name not in self.circuits:
            raise InputError(f"no circuit is called {name!r}; {known(self.circuits, name)}")
        return self.circuits[name], [other for key, other in self.circuits.items() if key != name]

    def to_json(self) -> dict[str, Any]:
        """Sizes, pairs and notes as plain values."""
        sizes = {name: {"nodes": one.n_nodes, "edges": one.n_edges} for name, one in self.circuits.items()}
        return {"circuits": sizes, "pairs": [pair.to_json() for pair in self.pairs], "notes": [*self.notes]}


def compare(circuits: Mapping[str, Circuit], *, places: str = KEEP, check: bool = True) -> Comparison:
    """How much each two circuits have in common: nodes and edges, plain and weighted, signs and ranks.

    `circuits`: name -> circuit, two or more. `places`: with "keep" a feature at two places is two nodes; with "sum" it
    is one, wherever in the prompt it is, and effects and edges are summed. Raises `InputError` for fewer than two,
    circuits with nodes at other kinds of places (sum them), and circuits whose dictionaries differ, where the same
    number means another feature (match them, or pass check=False).
    """
    check_comparable(circuits, places, check)
    compared = {name: with_places(circuit, places) for name, circuit in circuits.items()}
    pairs = tuple(_pair(a, compared[a], b, compared[b]) for a, b in combinations(compared, 2))
    return Comparison(compared, pairs, notes_on(circuits, places))


def _pair(first: str, a: Circuit, second: str, b: Circuit) -> Pair:
    nodes, others = ({node: score.effect for node, score in one.nodes.items()} for one in (a, b))
    both = bool(a.edges and b.edges)
    edges, other_edges = (a.edges, b.edges) if both else ({}, {})
    return Pair(
        first,
        second,
        overlap(nodes, others),
        overlap(edges, other_edges) if both else None,
        overlaps_by(_layer, nodes, others, _order),
        overlaps_by(lambda node: node.site.kind, nodes, others, _order),
        overlaps_by(lambda edge: _layer(edge[1]), edges, other_edges, lambda edge: _order(edge[1])),
        overlaps_by(_kinds, edges, other_edges, lambda edge: (_order(edge[0]), _order(edge[1]))),
    )


def _order(end: Endpoint) -> tuple[int, Site]:
    """Inputs first, then nodes in forward order, then the metric."""
    return (1, end.site) if isinstance(end, Node) else (2 if end == METRIC else 0, EMBED)


def _layer(end: Endpoint) -> str:
    if isinstance(end, Node) and end.site.layer >= 0:
        return f"layer {end.site.layer}"
    return _kind(end)


def _kind(end: Endpoint) -> str:
    return end.site.kind if isinstance(end, Node) else end.partition("@")[0]


def _kinds(edge: Edge) -> str:
    return f"{_kind(edge[0])} -> {_kind(edge[1])}"


def _with_edges(circuit: Circuit, nodes: set[Node], edges: set[Edge]) -> Circuit:
    found = among(nodes, circuit)
    return replace(found, edges={edge: weight for edge, weight in found.edges.items() if edge in edges})
