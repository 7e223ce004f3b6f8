"""Pruning: which nodes and edges a circuit keeps.

A rule picks entries by |effect|, equal ones in the order they came in; of a ranking it picks the beginning
of the ranking's own order (featcircuits.selection). After edges are chosen,
nodes that no path of kept edges leads from to the metric are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from featcircuits.circuit.circuit import Circuit, Endpoint
from featcircuits.errors import InputError, shortened
from featcircuits.inputs.ranges import MOST, Range, check_number, read_number
from featcircuits.model.nodes import METRIC

Rule = Callable[[np.ndarray], np.ndarray]
"""|effects| in the order in which entries are taken -> which to keep, as a mask."""


def threshold(value: float) -> Rule:
    """|effect| strictly above `value`."""
    check_number("threshold", value, _THRESHOLDS, float)
    return lambda sizes: sizes > value


def top(count: int) -> Rule:
    """The first `count`: a budget."""
    check_number("top", count, _COUNTS)
    return lambda sizes: np.arange(len(sizes)) < count


def cumulative(share: float) -> Rule:
    """The first that hold `share` of the total |effect| together."""
    check_number("cumulative", share, _SHARES, float)

    def mask(sizes: np.ndarray) -> np.ndarray:
        before = np.concatenate([[0.0], np.cumsum(sizes)[:-1]])
        # rounding must not ask for entries beyond the last one that has an effect, nor do without the first
        short = before < share * sizes.sum() * (1 - 1e-12)
        return (short | (np.arange(len(sizes)) == 0)) & (sizes > 0)

    return mask


_THRESHOLDS, _COUNTS, _SHARES = Range(0, 1e30), Range(1, MOST), Range(0, 1, above=True)


class _Kind(NamedTuple):
    make: Callable[[Any], Rule]
    number: type


RULES: Mapping[str, _Kind] = {
    "top": _Kind(top, int),
    "threshold": _Kind(threshold, float),
    "cumulative": _Kind(cumulative, float),
}


def parse_rule(text: str) -> Rule:
    """`"top=100"`, `"threshold=0.1"`, `"cumulative=0.8"`; anything else is an `InputError`."""
    if not isinstance(text, str):
        asked = f"top={text}" if type(text) is int else "top=100"
        raise InputError(
            f"a pruning rule is a text, found {shortened(text)}; give {asked!r}, threshold=X or cumulative=X"
        )
    name, _, value = (part.strip() for part in text.partition("="))
    if name not in RULES:
        raise InputError(f"unknown pruning rule {shortened(text)}; known: top=N, threshold=X, cumulative=SHARE")
    kind = RULES[name]
    return kind.make(read_number(f"pruning rule {shortened(text)}: {name}", value, kind.number))


def choose(effects: Sequence[float], rule: Rule) -> list[int]:
    """Indices of the kept entries, in their own order."""
    sizes = np.abs(np.asarray(effects, dtype=np.float64))
    order = np.argsort(-sizes, kind="stable")
    return sorted(order[rule(sizes[order])].tolist()) if len(sizes) else []


def beginning(ranking: Circuit, rule: Rule) -> Circuit:
    """What a rule keeps of a ranking's nodes, taken in the ranking's order; of a circuit without edges."""
    sizes = np.abs(np.array([score.effect for score in ranking.nodes.values()], dtype=np.float64))
    kept = rule(sizes).tolist() if len(sizes) else []
    return _with({node for node, keep in zip(ranking.nodes, kept, strict=True) if keep}, ranking)


def strongest(circuit: Circuit, count: int) -> Circuit:
    """The nodes of largest |effect| and the edges among them, with a path to the metric or without."""
    listed = list(circuit.nodes)
    kept = choose([score.effect for score in circuit.nodes.values()], top(count))
    return _with({listed[number] for number in kept}, circuit)


def prune(circuit: Circuit, *, nodes: Rule | None = None, edges: Rule | None = None) -> Circuit:
    """Keep the nodes that one rule chooses, the edges among them that another does, and what is reachable."""
    if nodes is not None:
        listed = list(circuit.nodes)
        kept = choose([score.effect for score in circuit.nodes.values()], nodes)
        circuit = _with({listed[number] for number in kept}, circuit)
    if edges is not None:
        circuit = chosen_edges(circuit, edges)
    return reachable(circuit) if circuit.edges else circuit


def chosen_edges(circuit: Circuit, rule: Rule) -> Circuit:
    """With all nodes, and the edges that a rule chooses."""
    edges = list(circuit.edges.items())
    return replace(circuit, edges=dict(edges[i] for i in choose([weight for _, weight in edges], rule)))


def reachable(circuit: Circuit) -> Circuit:
    """Without the nodes that have no path to the metric, and without their edges."""
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
    return _with(found, circuit)


def _with(kept: Collection[Endpoint], circuit: Circuit) -> Circuit:
    """These nodes of a circuit, the edges whose ends are both kept, and their labels; the metric and inputs stay."""

    def stays(end: Endpoint) -> bool:
        return isinstance(end, str) or end in kept

    return replace(
        circuit,
        nodes={node: score for node, score in circuit.nodes.items() if stays(node)},
        edges={edge: weight for edge, weight in circuit.edges.items() if all(map(stays, edge))},
        labels={end: label for end, label in circuit.labels.items() if stays(end)},
    )
