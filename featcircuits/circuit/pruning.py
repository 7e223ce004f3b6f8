"""Pruning: which nodes and edges a circuit keeps.

A rule keeps entries by |effect|, equal ones in their given order; of a ranking it keeps the first entries
in the ranking's own order (featcircuits.selection). The rule `influence` keeps them by their influence on the metric
along all paths, for which it needs the edges first. After edges are chosen, nodes without a path of kept edges to the
metric are dropped.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import Field, dataclass, fields, replace
from typing import Any

import numpy as np

from featcircuits.circuit.circuit import Circuit, Endpoint
from featcircuits.errors import InputError, shortened
from featcircuits.inputs.ranges import MOST, Range, check_kind, check_number, read_number
from featcircuits.inputs.variants import read_options, written_options
from featcircuits.model.nodes import METRIC

_LARGEST = 1e30


class PruningRule(ABC):
    """A rule that says which entries of an order are kept."""

    @abstractmethod
    def __call__(self, sizes: np.ndarray) -> np.ndarray:
        """The mask of the entries to keep, given |effects| in the order in which entries are taken."""


@dataclass(frozen=True)
class Top(PruningRule):
    """Keeps the first `count` entries."""

    count: int

    def __post_init__(self) -> None:
        check_number("top", self.count, Range(1, MOST))

    def __call__(self, sizes: np.ndarray) -> np.ndarray:
        return np.arange(len(sizes)) < self.count

    def __str__(self) -> str:
        return f"top={self.count}"


@dataclass(frozen=True)
class Threshold(PruningRule):
    """Keeps entries whose |effect| is strictly above `value`."""

    value: float

    def __post_init__(self) -> None:
        check_number("threshold", self.value, Range(0, _LARGEST), float)

    def __call__(self, sizes: np.ndarray) -> np.ndarray:
        return sizes > self.value

    def __str__(self) -> str:
        return f"threshold={self.value}"


@dataclass(frozen=True)
class Cumulative(PruningRule):
    """Keeps the fewest first entries that together hold `share` of the total |effect|."""

    share: float

    def __post_init__(self) -> None:
        check_number("cumulative", self.share, Range(0, 1, above=True), float)

    def __call__(self, sizes: np.ndarray) -> np.ndarray:
        before = np.concatenate([[0.0], np.cumsum(sizes)[:-1]])
        # in spite of rounding, keep at least the first entry, and none after the last one with an effect
        short = before < self.share * sizes.sum() * (1 - 1e-12)
        return (short | (np.arange(len(sizes)) == 0)) & (sizes > 0)

    def __str__(self) -> str:
        return f"cumulative={self.share}"


@dataclass(frozen=True)
class ByInfluence(PruningRule):
    """Keeps the entries that together hold `share` of all influence on the metric (featcircuits.circuit.influence).

    Of a ranking it takes the first `of` nodes: those among which edges, and with them influence, are computed.
    `first_position=False` leaves out features and errors at position 0, and edges into errors, as circuit-tracer does.
    """

    share: float
    of: int = 2000
    first_position: bool = True

    def __post_init__(self) -> None:
        check_number("influence", self.share, Range(0, 1, above=True), float)
        check_number("influence: of", self.of, Range(1, MOST))
        check_kind("influence: first_position", self.first_position, bool)

    def __call__(self, sizes: np.ndarray) -> np.ndarray:
        return np.arange(len(sizes)) < self.of

    def __str__(self) -> str:
        return ":".join([f"influence={self.share}", *written_options(self, fields(self)[1:])])

    def nodes_of(self, circuit: Circuit) -> Circuit:
        """The circuit of the most influential nodes, its tokens, and the edges among them."""
        from featcircuits.circuit.influence import influential_nodes  # scipy takes its time

        kept = influential_nodes(circuit, self.share, first_position=self.first_position)
        return among(kept, circuit)

    def edges_of(self, circuit: Circuit, whole: Circuit) -> Circuit:
        """The circuit of the edges of largest score, without nodes that then lead nowhere or come from nowhere."""
        from featcircuits.circuit.influence import influential_edges

        kept, edges = influential_edges(circuit, self.share, whole=whole, first_position=self.first_position)
        inputs = {edge for edge in circuit.edges if isinstance(edge[0], str)}
        chosen = {edge: weight for edge, weight in circuit.edges.items() if edge in edges or edge in inputs}
        return among(kept, replace(circuit, edges=chosen))


PRUNING_RULES: Mapping[str, tuple[Callable[..., PruningRule], type]] = {
    "top": (Top, int),
    "threshold": (Threshold, float),
    "cumulative": (Cumulative, float),
    "influence": (ByInfluence, float),
}
"""Name -> the rule, and the type of its number."""
_KNOWN = "top=N, threshold=X, cumulative=SHARE, influence=SHARE"


def parse_pruning(text: str | PruningRule) -> PruningRule:
    """The rule of `"top=100"`, `"threshold=0.1"`, `"cumulative=0.8"` or `"influence=0.8:of=1000"`; rules are returned.

    Raises `InputError` for anything else.
    """
    if isinstance(text, PruningRule):
        return text
    if not isinstance(text, str):
        asked = f"top={text}" if type(text) is int else "top=100"
        raise InputError(
            f"a pruning rule is a text, found {shortened(text)}; give {asked!r}, threshold=X or cumulative=X"
        )
    first, *others = (part.strip() for part in text.split(":"))
    name, _, value = (part.strip() for part in first.partition("="))
    if name not in PRUNING_RULES:
        raise InputError(f"unknown pruning rule {shortened(text)}; known: {_KNOWN}")
    make, kind = PRUNING_RULES[name]
    shown = f"pruning rule {shortened(text)}"
    parts = ["=".join(piece.strip() for piece in part.split("=", 1)) for part in others]
    options = read_options(shown, parts, lambda key: _option(shown, make, key))
    return make(read_number(f"{shown}: {name}", value, kind), **options)


def _option(shown: str, make: Any, key: str) -> Field[Any]:
    known: dict[str, Field[Any]] = {option.name: option for option in fields(make)[1:]}
    if key not in known:
        raise InputError(f"{shown}: {shortened(key)} is not an option; its options: {', '.join(known) or 'none'}")
    return known[key]


def choose(effects: Sequence[float], rule: PruningRule) -> list[int]:
    """The indices of the kept entries, in their own order."""
    sizes = np.abs(np.asarray(effects, dtype=np.float64))
    order = np.argsort(-sizes, kind="stable")
    return sorted(order[rule(sizes[order])].tolist()) if len(sizes) else []


def beginning(ranking: Circuit, rule: PruningRule) -> Circuit:
    """The nodes of a ranking that a rule keeps, taken in the ranking's order, for a circuit without edges."""
    sizes = np.abs(np.array([score.effect for score in ranking.nodes.values()], dtype=np.float64))
    kept = rule(sizes).tolist() if len(sizes) else []
    return among({node for node, keep in zip(ranking.nodes, kept, strict=True) if keep}, ranking)


def strongest(circuit: Circuit, count: int) -> Circuit:
    """The nodes of largest |effect| and the edges among them, with or without a path to the metric."""
    listed = list(circuit.nodes)
    kept = choose([score.effect for score in circuit.nodes.values()], Top(count))
    return among({listed[number] for number in kept}, circuit)


def prune(circuit: Circuit, *, nodes: PruningRule | None = None, edges: PruningRule | None = None) -> Circuit:
    """Keep the nodes of one rule and the edges among them of another, then only nodes with a path to the metric."""
    whole = circuit
    if isinstance(nodes, ByInfluence):
        circuit = nodes.nodes_of(circuit)
    elif nodes is not None:
        listed = list(circuit.nodes)
        kept = choose([score.effect for score in circuit.nodes.values()], nodes)
        circuit = among({listed[number] for number in kept}, circuit)
    if edges is not None:
        circuit = chosen_edges(circuit, edges, whole)
    return reachable(circuit) if circuit.edges else circuit


def chosen_edges(circuit: Circuit, rule: PruningRule, whole: Circuit | None = None) -> Circuit:
    """The circuit with the edges that a rule keeps; all its nodes stay, or by influence those that edges connect.

    `whole`: the graph from which its nodes were chosen, if they were.
    """
    if isinstance(rule, ByInfluence):
        return rule.edges_of(circuit, circuit if whole is None else whole)
    edges = list(circuit.edges.items())
    return replace(circuit, edges=dict(edges[i] for i in choose([weight for _, weight in edges], rule)))


def reachable(circuit: Circuit) -> Circuit:
    """The circuit without nodes that have no path to the metric, and without their edges."""
    readers: dict[Endpoint, list[Endpoint]] = {}
    for source, target in circuit.edges:
        readers.setdefault(target, []).append(source)
    found: set[Endpoint] = set()
    waiting: list[Endpoint] = [METRIC]
    while waiting:
        end = waiting.pop()
        if end not in found:
            found.add(end)
            waiting.extend(readers.get(end, []))
    return among(found, circuit)


def among(kept: Collection[Endpoint], circuit: Circuit) -> Circuit:
    """The circuit with only these nodes, the edges between kept ends, and their labels; the metric and inputs stay."""

    def stays(end: Endpoint) -> bool:
        return isinstance(end, str) or end in kept

    return replace(
        circuit,
        nodes={node: score for node, score in circuit.nodes.items() if stays(node)},
        edges={edge: weight for edge, weight in circuit.edges.items() if all(map(stays, edge))},
        labels={end: label for end, label in circuit.labels.items() if stays(end)},
        groups={name: own for name, members in circuit.groups.items() if (own := tuple(filter(stays, members)))},
    )
