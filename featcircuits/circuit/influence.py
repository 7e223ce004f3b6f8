"""Influence: how much of the metric flows through a node along all paths of a graph (Ameisen et al. 2025).

With A[t, s] the edge from s to t, S[t, s] = |A[t, s]| / sum over s' of |A[t, s']| (0 where t has no edge in), and w the
weights of the targets (1 at the metric):

    I = w (S + S^2 + ...) = w (1 - S)^-1 - w

So the rows need no common scale, and edge effects serve as they are. Graphs have no cycles, and the sum is finite: it
is solved as a sparse triangular system, never with a dense matrix.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_matrix, identity
from scipy.sparse.linalg import spsolve_triangular

from featcircuits.circuit.circuit import Circuit
from featcircuits.errors import InputError, shortened
from featcircuits.inputs.ranges import Range, check_number
from featcircuits.model.nodes import METRIC, Endpoint, Node
from featcircuits.model.sites import EMBED

Edge = tuple[Endpoint, Endpoint]


@dataclass(frozen=True)
class Influence:
    """The influence of every node, and two scores of the graph.

    `replacement`: of all influence on its way from tokens and errors, the share that starts at tokens: how much of the
    metric goes through features from end to end; NaN for a graph without tokens. `completeness`: the share of edges
    into nodes that does not come from errors, weighted by the nodes' influence (and targets by their weight). Tokens
    are the nodes at `embed`; edges from inputs to these do not count. Both are NaN where there is nothing to divide by.
    """

    nodes: Mapping[Endpoint, float]
    replacement: float
    completeness: float
    edges: Mapping[Edge, float]
    """S[t, s] (I_t + w_t): how much of the influence of its target comes along an edge."""

    @property
    def scores(self) -> dict[str, float | None]:
        """Both scores by name; None where there is nothing to divide by."""
        return {name: None if np.isnan(at := getattr(self, name)) else at for name in ("replacement", "completeness")}

    def to_json(self) -> dict[str, Any]:
        """The scores, and the nodes' influence, as plain values."""
        return {**self.scores, "nodes": {str(node): value for node, value in self.nodes.items()}}


class _Graph(NamedTuple):
    """A graph with numbers for nodes in forward order."""

    ends: list[Endpoint]
    shares: csr_matrix
    """S [target, source]"""
    weights: np.ndarray


def influence(
    edges: Circuit | Mapping[Edge, float],
    weights: Mapping[Endpoint, float] | None = None,
    *,
    first_position: bool = True,
) -> Influence:
    """The influence of every node of a graph on the metric, or on targets with `weights`, as logits' probabilities.

    `edges`: a circuit, or edges with their effects, (source, target) -> effect. `first_position=False` leaves out
    features and errors at position 0, as circuit-tracer does, and edges into errors. Raises `InputError` for edges that
    run in a circle, weights that are not finite, and targets that no edge reaches.
    """
    found = _considered(edges, first_position)
    weights = {METRIC: 1.0} if weights is None else dict(weights)
    graph = _graph(found, weights)
    total = _solved(graph.shares, graph.weights)
    through = total - graph.weights
    errors = np.array([_is_error(end) for end in graph.ends])
    tokens = np.array([_is_token(end) for end in graph.ends])
    from_tokens, from_errors = through[tokens].sum(), through[errors & ~tokens].sum()
    lost = np.asarray(graph.shares[:, errors & ~tokens].sum(1)).ravel()
    scored = graph.shares.multiply(total[:, None]).tocoo()
    kept = {
        (graph.ends[s], graph.ends[t]): float(value)
        for t, s, value in zip(scored.row, scored.col, scored.data, strict=True)
    }
    return Influence(
        dict(zip(graph.ends, through.tolist(), strict=True)),
        _share(from_tokens, from_tokens + from_errors) if tokens.any() else float("nan"),
        _share(float((total * (1 - lost)).sum()), float(total.sum())),
        kept,
    )


def influence_in(circuit: Circuit) -> Influence | None:
    """The influence of a circuit's nodes on the metric along its edges; None if no edge leads to the metric."""
    leads = any(target == METRIC and isinstance(source, Node) for source, target in circuit.edges)
    return influence(circuit) if leads else None


def pruned_by_influence(
    circuit: Circuit | Mapping[Edge, float],
    *,
    nodes: float = 0.8,
    edges: float = 0.98,
    weights: Mapping[Endpoint, float] | None = None,
    first_position: bool = True,
) -> tuple[set[Endpoint], set[Edge]]:
    """The nodes and edges that circuit-tracer's rule keeps.

    The most influential nodes that together hold the share `nodes` of all influence, and all tokens and targets; of the
    graph among these, with its influence anew, the edges of largest score that together hold the share `edges`; then
    features and errors without an edge out, and features that lost all edges in, go until none is left.
    """
    for what, share in (("nodes", nodes), ("edges", edges)):
        check_number(what, share, Range(0, 1, above=True), float)
    weights = {METRIC: 1.0} if weights is None else dict(weights)
    found = _considered(circuit, first_position)
    kept = influential_nodes(found, nodes, weights)
    among = {edge: value for edge, value in found.items() if kept.issuperset(edge)}
    return _influential_edges(among, kept, edges, weights, {target for _, target in found})


def influential_nodes(
    edges: Circuit | Mapping[Edge, float],
    share: float,
    weights: Mapping[Endpoint, float] | None = None,
    *,
    first_position: bool = True,
) -> set[Endpoint]:
    """The most influential nodes that together hold a share of all influence, and all tokens and targets."""
    weights = {METRIC: 1.0} if weights is None else weights
    by_node = influence(edges, weights, first_position=first_position).nodes
    return _largest(by_node, share) | {end for end in by_node if _is_token(end)} | weights.keys()


def influential_edges(
    circuit: Circuit, share: float, *, whole: Circuit | None = None, first_position: bool = True
) -> tuple[set[Endpoint], set[Edge]]:
    """The edges of largest score that together hold a share, and the nodes that are left by them.

    `whole`: the graph from which the circuit's nodes were chosen. A feature that lost all its edges in goes; one that
    never had any, as the first features of a suite without tokens, stays.
    """
    reached = {target for _, target in _considered(whole or circuit, first_position)}
    nodes: set[Endpoint] = {*circuit.nodes, METRIC}
    return _influential_edges(_considered(circuit, first_position), nodes, share, {METRIC: 1.0}, reached)


def _influential_edges(
    edges: Mapping[Edge, float],
    nodes: set[Endpoint],
    share: float,
    weights: Mapping[Endpoint, float],
    reached: Collection[Endpoint],
) -> tuple[set[Endpoint], set[Edge]]:
    """The chosen edges and the nodes that stay; `reached`: the ends that had an edge in, of which features need one."""
    left = {target for _, target in edges}  # a target may have lost all its sources
    by_edge = influence(edges, {end: weight for end, weight in weights.items() if end in left}).edges
    roots = {end for end in nodes if end not in reached or _is_error(end)}
    return _without_dangling(nodes, _largest(by_edge, share), weights.keys(), roots)


def _largest(values: Mapping[Any, float], share: float) -> set[Any]:
    """The largest values that together hold a share of their sum, the one that reaches it included."""
    order = sorted(values, key=lambda one: -values[one])
    held = np.cumsum([values[one] for one in order])
    if not len(held) or held[-1] <= 0:
        return set()
    count = int(np.searchsorted(held / held[-1], share)) + 1
    return set(order[:count])


def _without_dangling(
    nodes: set[Endpoint], edges: set[Edge], targets: Collection[Endpoint], roots: Collection[Endpoint]
) -> tuple[set, set]:
    """Without features and errors that lead nowhere, and features that come from nowhere, to a fixpoint.

    Tokens and targets stay; `roots` need no edge in.
    """
    fixed = {end for end in nodes if _is_token(end)} | set(targets)
    while True:
        sources, reached = ({edge[side] for edge in edges} for side in (0, 1))
        stays = {end for end in nodes if end in fixed or (end in sources and (end in reached or end in roots))}
        if stays == nodes:
            return nodes, edges
        nodes = stays
        edges = {edge for edge in edges if nodes.issuperset(edge)}


def _graph(edges: Mapping[Edge, float], weights: Mapping[Endpoint, float]) -> _Graph:
    ends = _forward(edges)
    number = {end: at for at, end in enumerate(ends)}
    if lacking := [target for target in weights if target not in number]:
        raise InputError(f"no edge leads to {lacking[0]}, so nothing can have influence on it; give other weights")
    bad = [target for target, weight in weights.items() if not np.isfinite(weight)]
    if bad:
        raise InputError(f"the weight of {bad[0]} is {shortened(weights[bad[0]])}; give finite numbers")
    rows = np.array([number[target] for _, target in edges], dtype=np.int64)
    columns = np.array([number[source] for source, _ in edges], dtype=np.int64)
    sizes = np.abs(np.array([*edges.values()], dtype=np.float64))
    into = np.bincount(rows, sizes, minlength=len(ends))
    shares = np.divide(sizes, into[rows], out=np.zeros_like(sizes), where=into[rows] > 0)
    matrix = csr_matrix((shares, (rows, columns)), shape=(len(ends), len(ends)))
    w = np.zeros(len(ends))
    for target, weight in weights.items():
        w[number[target]] = weight
    return _Graph(ends, matrix, w)


def _forward(edges: Iterable[Edge]) -> list[Endpoint]:
    """All ends such that every edge runs forward; raises `InputError` if there is a circle."""
    from graphlib import CycleError, TopologicalSorter

    sorter: TopologicalSorter[Endpoint] = TopologicalSorter()
    for source, target in edges:
        sorter.add(target, source)
    try:
        return list(sorter.static_order())
    except CycleError as error:
        circle = " -> ".join(map(str, reversed(error.args[1])))
        raise InputError(f"the edges run in a circle: {shortened(circle, 200)}") from None


def _solved(shares: csr_matrix, w: np.ndarray) -> np.ndarray:
    """w (1 - S)^-1: with ends in forward order S is strictly lower triangular, and its transpose upper."""
    system = (identity(len(w), format="csr") - shares.T).tocsr()
    return spsolve_triangular(system, w, lower=False, unit_diagonal=True)


def _considered(edges: Circuit | Mapping[Edge, float], first_position: bool) -> dict[Edge, float]:
    """The edges between nodes and into targets; without the first position, those that circuit-tracer has."""
    given = edges.edges if isinstance(edges, Circuit) else edges
    found: dict[Edge, float] = {edge: value for edge, value in given.items() if isinstance(edge[0], Node)}
    return found if first_position else {edge: value for edge, value in found.items() if _shared(*edge)}


def _shared(source: Endpoint, target: Endpoint) -> bool:
    """Whether circuit-tracer has the edge: no features or errors at position 0, and no edges into errors."""
    if isinstance(target, Node) and (_is_error(target) or target.place == 0):
        return False
    return _is_token(source) or not isinstance(source, Node) or source.place != 0


def _is_token(end: Endpoint) -> bool:
    return isinstance(end, Node) and end.site == EMBED


def _is_error(end: Endpoint) -> bool:
    return isinstance(end, Node) and end.is_error and end.site != EMBED


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")
