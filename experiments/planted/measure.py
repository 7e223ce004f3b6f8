"""Precision and recall of every estimator x selection rule on one motif, in both directions of patching."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import featcircuits as fc
from experiments.planted.motifs import Motif
from experiments.planted.scores import average_precision, precision_recall
from featcircuits.circuit.circuit import NodeScore
from featcircuits.effects.results import NodeEffects
from featcircuits.estimators import parse_estimator
from featcircuits.model.nodes import METRIC, Node
from featcircuits.progress import silent
from featcircuits.selection import parse_selection
from featcircuits.selection.evidence import Evidence
from featcircuits.selection.select import ordered

RULES = ("effect", "helpful", "ratio", "ranks", "iterated:smallest=1", "mask:smallest=1", "greedy:smallest=1")
"""Searching rules go down to one node: these circuits are smaller than their default smallest size."""
SEARCHING = ("iterated", "mask", "greedy")
"""Rules that run ablated models, and so can find a node to which the estimator gives no effect."""
DIRECTIONS = ("noising", "denoising")
DIGITS = 9
"""Effects that differ by less are equal: the rest is rounding, and must not decide the order."""
FLOOR = 1e-3
"""An effect below this share of the estimator's strongest counts as none: epsilons and float32 leave such effects."""
Orders = dict[tuple[Node | str, ...], list[Node]]


def measured(motif: Motif, estimators: Iterable[str], rules: Sequence[str] = RULES) -> list[dict[str, Any]]:
    """A row for each direction, estimator and rule."""
    rows = []
    for direction, task in zip(DIRECTIONS, (motif.task, motif.swapped), strict=True):
        known: Orders = {}
        for name in estimators:
            effects = fc.node_effects(motif.spliced, task, name)
            edges = edges_of(motif, task, effects) if parse_estimator(name).has_edges else None
            for rule in rules:
                order = order_of(motif, task, effects, rule, known)
                where = {"shape": motif.shape, "motif": motif.name, "direction": direction, "estimator": name}
                rows.append({**where, "rule": rule.partition(":")[0], **judged(motif, order, edges)})
    return rows


def scores_of(effects: NodeEffects, floor: float = FLOOR) -> dict[Node, NodeScore]:
    """The nodes to which the estimator gives more than a share `floor` of its strongest effect."""
    rounded = {node: NodeScore(round(mean, DIGITS), error) for node, mean, error in effects.nodes()}
    return {node: rounded[node] for node in _above({node: one.effect for node, one in rounded.items()}, floor)}


def _above(values: Mapping[Any, float], floor: float) -> list[Any]:
    """The keys whose |value| is above a share of the largest one."""
    least = floor * max(map(abs, values.values()), default=0.0)
    return [key for key, value in values.items() if abs(value) > least]


def order_of(motif: Motif, task: fc.Task, effects: NodeEffects, rule: str, known: Orders | None = None) -> list[Node]:
    """The nodes with an effect in the order of a rule; a searching rule orders all that differ between both runs.

    In trained models no effect is exactly 0, so a search there sees every node that differs. What it finds depends on
    effects by their order alone, so `known` holds what was found from the same order.
    """
    scores = scores_of(effects)
    searching = rule.partition(":")[0] in SEARCHING
    if searching:
        scores = {node: scores.get(node, NodeScore(0.0, 0.0)) for node in effects.moving()}
    evidence = Evidence(motif.spliced, task, effects, scores, 0, silent)
    if known is None or not searching:
        return ordered(evidence, parse_selection(rule))
    key = (rule, *evidence.by_effect())
    if key not in known:
        known[key] = ordered(evidence, parse_selection(rule))
    return known[key]


def edges_of(motif: Motif, task: fc.Task, effects: NodeEffects, floor: float = FLOOR) -> list[tuple[Node, Node | str]]:
    """All edges among the nodes that differ between both runs, by |effect|, as far as they have more than the floor."""
    found = fc.edge_effects(motif.spliced, task, list(effects.moving()), effects.estimator, effects=effects).edges()
    weights = {(edge.upstream, edge.downstream): round(abs(edge.mean), DIGITS) for edge in found}
    return sorted(_above(weights, floor), key=lambda edge: -weights[edge])


def judged(motif: Motif, order: list[Node], edges: list[tuple[Node, Node | str]] | None) -> dict[str, Any]:
    """Nodes at the true size; then edges at the true number of edges among these nodes; and areas."""
    precision, recall = precision_recall(order, motif.nodes)
    first = order[: len(motif.nodes)]
    found: dict[str, Any] = {"precision": precision, "recall": recall, "area": average_precision(order, motif.nodes)}
    found["missed"] = sorted(map(motif.said, motif.nodes.difference(first)))
    found["wrong"] = [motif.said(node) for node in first if node not in motif.nodes]
    if edges is not None:
        kept = {*first, METRIC}
        among = [edge for edge in edges if kept.issuperset(edge)]
        precision, recall = precision_recall(among, motif.edges)
        found |= {
            "edge_precision": precision,
            "edge_recall": recall,
            "edge_area": average_precision(among, motif.edges),
        }
    return found
