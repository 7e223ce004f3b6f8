"""Which forward rows a set of edge circuits needs: one for every distinct set of values that a site is computed from.

In an edge circuit a node is computed from the values of its parents alone, so its value depends on all edges that lead
to it and on nothing else. Circuits that share these edges share the value, and nodes with the same parents share a row.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from featcircuits.circuit.circuit import Circuit
from featcircuits.errors import InputError, known, shortened
from featcircuits.evaluation.curves import shuffled_within
from featcircuits.model.nodes import METRIC, Endpoint, Node, endpoint
from featcircuits.model.sites import Site

Edge = tuple[Node, Endpoint]
"""A direct connection from a node to a later node, or to the metric."""
_T = TypeVar("_T")
ORDERS = ("absolute", "signed")
"""By |effect|; or from the edge that carries most of the behaviour to the one that works most against it."""


class Row(NamedTuple):
    """One forward row: values are put in at all sites, and it ends at a site (None: at the metric)."""

    site: Site | None
    reads: tuple[int, ...]


class Value(NamedTuple):
    """The value that a node has in a row."""

    node: Node
    row: int


@dataclass(frozen=True, eq=False)
class Plan:
    """Rows and values, each once and after those that it needs, and the metric's row of each circuit."""

    rows: tuple[Row, ...]
    values: tuple[Value, ...]
    outputs: tuple[int, ...]


def planned(circuits: Sequence[Collection[Edge]]) -> Plan:
    """The rows of edge circuits; nodes without a path to the metric are left out."""
    rows: dict[Row, int] = {}
    values: dict[Value, int] = {}
    outputs = []
    for edges in circuits:
        parents = parents_of(edges)
        own: dict[Node, int] = {}
        for node in sorted(_upstream(parents), key=lambda node: (node.site, str(node))):
            row = Row(node.site, _reads(parents, node, own))
            value = Value(node, rows.setdefault(row, len(rows)))
            own[node] = values.setdefault(value, len(values))
        outputs.append(rows.setdefault(Row(None, _reads(parents, METRIC, own)), len(rows)))
    return Plan(tuple(rows), tuple(values), tuple(outputs))


def parents_of(edges: Collection[Edge]) -> dict[Endpoint, set[Node]]:
    """The sources of the edges to each end."""
    parents: dict[Endpoint, set[Node]] = {}
    for source, target in edges:
        parents.setdefault(target, set()).add(source)
    return parents


def _reads(parents: Mapping[Endpoint, set[Node]], end: Endpoint, own: Mapping[Node, int]) -> tuple[int, ...]:
    return tuple(sorted(own[node] for node in parents.get(end, ())))


def _upstream(parents: Mapping[Endpoint, set[Node]]) -> set[Node]:
    """The nodes from which a path leads to the metric."""
    found: set[Node] = set()
    waiting: list[Endpoint] = [METRIC]
    while waiting:
        new = parents.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found


def edges_in_order(circuit: Circuit, order: str | Sequence[tuple[Endpoint, Endpoint]]) -> list[Edge]:
    """The circuit's edges between nodes and to the metric; those from inputs are not judged, since inputs stay clean.

    `order`: "absolute", "signed", or edges in an order of their own. Raises `InputError` for another word, and for an
    edge that the circuit does not have.
    """
    weights = {(u, d): weight for (u, d), weight in circuit.edges.items() if isinstance(u, Node)}
    if isinstance(order, str):
        if order not in ORDERS:
            raise InputError(f"order is {shortened(order)}; {known(ORDERS, order)}, or a list of edges")
        return strongest_first(weights, order)
    given = [_edge(pair) for pair in order]
    if strange := [edge for edge in given if edge not in weights]:
        raise InputError(f"order: the circuit has no edge {strange[0][0]} -> {strange[0][1]} from a node")
    return list(dict.fromkeys(given))


def strongest_first(effects: Mapping[_T, float], order: str) -> list[_T]:
    """Nodes or edges in one of the `ORDERS`, by their effects."""
    return sorted(effects, key=lambda one: -(abs(effects[one]) if order == "absolute" else effects[one]))


def _edge(pair: object) -> Edge:
    if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
        raise InputError(f"order: {shortened(pair)} is not an edge; give pairs such as ('embed/3@0', 'metric')")
    source, target = (endpoint(end) for end in pair)
    return source, target  # type: ignore[return-value]  # an edge from an input is none of the circuit's, and refused


def shuffled_edges(order: Sequence[Edge], seed: int) -> list[Edge]:
    """The edges of each connection (site to site) in random order, at the connection's ranks.

    So the first k of them are a random circuit with as many edges in every connection as the k strongest have.
    """

    def connection(edge: Edge) -> tuple[Site, Site | str]:
        source, target = edge
        return source.site, target.site if isinstance(target, Node) else METRIC

    return shuffled_within(order, seed, connection)


def nodes_in_order(edges: Sequence[Edge]) -> tuple[list[Node], list[int]]:
    """The ends of edges in the order in which they come up, and how many there are after each edge."""
    nodes: dict[Node, None] = {}
    counts = []
    for edge in edges:
        nodes |= dict.fromkeys(end for end in edge if isinstance(end, Node))
        counts.append(len(nodes))
    return list(nodes), counts
