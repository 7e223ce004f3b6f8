"""Pruning: which nodes and edges a circuit keeps.

A rule picks entries by |effect|, equal ones in the order they came in; of a ranking it picks the beginning
of the ranking's own order (featcircuits.selection). After edges are chosen,
nodes that no path of kept edges leads from to the metric are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from featcircuits.circuit import Circuit, Endpoint
from featcircuits.errors import InputError
from featcircuits.nodes import METRIC

Rule = Callable[[np.ndarray], np.ndarray]
"""|effects| in the order in which entries are taken -> which to keep, as a mask."""


def threshold(value: float) -> Rule:
    """|effect| strictly above `value`."""
    if not value >= 0:
        raise InputError(f"threshold={value}: a threshold on |effect| is a number of at least 0")
    return lambda sizes: sizes > value


def top(count: float) -> Rule:
    """The first `count`: a budget."""
    if not (count >= 1 and float(count).is_integer()):
        raise InputError(f"top={count}: give a whole number of at least 1")
    return lambda sizes: np.arange(len(sizes)) < count


def cumulative(share: float) -> Rule:
    """The first that hold `share` of the total |effect| together."""
    if not 0 < share <= 1:
        raise InputError(f"cumulative={share}: give a share above 0, and at most 1")

    def mask(sizes: np.ndarray) -> np.ndarray:
        before = np.concatenate([[0.0], np.cumsum(sizes)[:-1]])
        # rounding must not ask for entries beyond the last one that has an effect
        return (before < share * sizes.sum() * (1 - 1e-12)) & (sizes > 0)

    return mask


RULES: Mapping[str, Callable[[float], Rule]] = {"threshold": threshold, "top": top, "cumulative": cumulative}


def parse_rule(text: str) -> Rule:
    """`"top=100"`, `"threshold=0.1"`, `"cumulative=0.8"`."""
    name, _, value = text.partition("=")
    if name.strip() not in RULES:
        raise InputError(f"unknown pruning rule {text!r}; known: top=N, threshold=X, cumulative=SHARE")
    try:
        number = int(value) if value.strip().removeprefix("-").isdecimal() else float(value)
    except ValueError:
        raise InputError(f"pruning rule {text!r}: {value!r} is not a number") from None
    return RULES[name.strip()](number)


def choose(effects: Sequence[float], rule: Rule) -> list[int]:
    """Indices of the kept entries, in their own order."""
    sizes = np.abs(np.asarray(effects, dtype=np.float64))
    order = np.argsort(-sizes, kind="stable")
    return sorted(order[rule(sizes[order])].tolist()) if len(sizes) else []


def beginning(ranking: Circuit, rule: Rule) -> Circuit:
    """What a rule keeps of a ranking's nodes, taken in the ranking's order; of a circuit without edges."""
    sizes = np.abs(np.array([score.effect for score in ranking.nodes.values()], dtype=np.float64))
    kept = rule(sizes).tolist() if len(sizes) else []
    nodes = {node: score for (node, score), keep in zip(ranking.nodes.items(), kept, strict=True) if keep}
    return replace(ranking, nodes=nodes)


def prune(circuit: Circuit, *, nodes: Rule | None = None, edges: Rule | None = None) -> Circuit:
    """Keep the nodes that one rule chooses, the edges among them that another does, and what is reachable."""
    if nodes is not None:
        listed = list(circuit.nodes.items())
        kept = dict(listed[i] for i in choose([score.effect for _, score in listed], nodes))
        circuit = replace(circuit, nodes=kept, edges=_between(circuit, set(kept)))
    if edges is not None:
        arcs = list(circuit.edges.items())
        circuit = replace(circuit, edges=dict(arcs[i] for i in choose([weight for _, weight in arcs], edges)))
    return reachable(circuit) if circuit.edges else circuit


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
    nodes = {node: score for node, score in circuit.nodes.items() if node in found}
    return replace(circuit, nodes=nodes, edges=_between(circuit, found))


def _between(circuit: Circuit, kept: set) -> dict[tuple[Endpoint, Endpoint], float]:
    """The edges whose ends are both kept; the metric and inputs always are."""
    return {
        edge: weight
        for edge, weight in circuit.edges.items()
        if all(isinstance(end, str) or end in kept for end in edge)
    }
