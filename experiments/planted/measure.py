"""Precision and recall of every estimator x selection rule on one motif, in both directions of patching."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import featcircuits as fc
from experiments.planted.motifs import Motif
from experiments.planted.scores import average_precision, precision_recall
from featcircuits.circuit.circuit import NodeScore
from featcircuits.effects.results import NodeEffects
from featcircuits.estimators import ESTIMATORS
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
TOLERANCE = 1e-9
"""A smaller |effect| is rounding, and counts as none."""


def measured(motif: Motif, estimators: Iterable[str], rules: Sequence[str] = RULES) -> list[dict[str, Any]]:
    """A row for each direction, estimator and rule."""
    rows = []
    for direction, task in zip(DIRECTIONS, (motif.task, motif.swapped), strict=True):
        for name in estimators:
            effects = fc.node_effects(motif.spliced, task, name)
            edges = edges_of(motif, task, effects) if ESTIMATORS[name].has_edges else None
            for rule in rules:
                order = order_of(motif, task, effects, rule)
                where = {"shape": motif.shape, "motif": motif.name, "direction": direction, "estimator": name}
                rows.append({**where, "rule": rule.partition(":")[0], **judged(motif, order, edges)})
    return rows


def scores_of(effects: NodeEffects) -> dict[Node, NodeScore]:
    """The nodes to which the estimator gives an effect beyond rounding."""
    return {node: NodeScore(mean, error) for node, mean, error in effects.nodes() if abs(mean) > TOLERANCE}


def order_of(motif: Motif, task: fc.Task, effects: NodeEffects, rule: str) -> list[Node]:
    """The nodes with an effect in the order of a rule; a searching rule orders all that differ between both runs.

    In trained models no effect is exactly 0, so a search there sees every node that differs.
    """
    scores = scores_of(effects)
    if rule.partition(":")[0] in SEARCHING:
        scores = {node: scores.get(node, NodeScore(0.0, 0.0)) for node in effects.moving()}
    return ordered(Evidence(motif.spliced, task, effects, scores, 0, silent), parse_selection(rule))


def edges_of(motif: Motif, task: fc.Task, effects: NodeEffects) -> list[tuple[Node, Node | str]]:
    """All edges among the nodes that differ between both runs, by |effect|."""
    found = fc.edge_effects(motif.spliced, task, list(effects.moving()), effects.estimator, effects=effects).edges()
    weights = {(edge.upstream, edge.downstream): abs(edge.mean) for edge in found if abs(edge.mean) > TOLERANCE}
    return sorted(weights, key=lambda edge: -weights[edge])


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
