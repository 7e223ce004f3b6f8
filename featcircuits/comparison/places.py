"""Circuits with their places summed, so that features are compared wherever in the prompt they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from featcircuits.circuit.circuit import Circuit, NodeScore
from featcircuits.model.nodes import Endpoint, Node, input_node

KEEP, SUM = "keep", "sum"
PLACES = (KEEP, SUM)
"""Whether nodes at different places are different nodes, or a feature is one node wherever it is."""


def summed(circuit: Circuit) -> Circuit:
    """The circuit with one node per feature, whose effect is the sum over its places; edges are summed alike.

    A sum's standard error is not known. Labels stay where nodes of a feature have only one; groups are left out.
    """
    effects: dict[Node, float] = {}
    for node, score in circuit.nodes.items():
        own = node._replace(place=None)
        effects[own] = effects.get(own, 0.0) + score.effect
    edges: dict[tuple[Endpoint, Endpoint], float] = {}
    for (source, target), weight in circuit.edges.items():
        own = _anywhere(source), _anywhere(target)
        edges[own] = edges.get(own, 0.0) + weight
    return Circuit(
        {node: NodeScore(effect) for node, effect in effects.items()},
        edges,
        (None,),
        "sum",
        _manifest(circuit.manifest),
        _labels(circuit),
    )


def _anywhere(end: Endpoint) -> Endpoint:
    if isinstance(end, Node):
        return end._replace(place=None)
    return input_node(None) if end.startswith("input") else end


def _labels(circuit: Circuit) -> dict[Endpoint, str]:
    found: dict[Endpoint, set[str]] = {}
    for end, label in circuit.labels.items():
        found.setdefault(_anywhere(end), set()).add(label)
    return {end: next(iter(labels)) for end, labels in found.items() if len(labels) == 1 and end != input_node(None)}


def _manifest(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What remains true of the sums: not what is said of places, nor of nodes at them."""
    kept = {name: value for name, value in manifest.items() if name not in ("stability", "prompt")}
    task = kept.get("task")
    if isinstance(task, Mapping):
        kept["task"] = {**{name: value for name, value in task.items() if name != "words"}, "aggregate": "sum"}
    return kept


def with_places(circuit: Circuit, places: str) -> Circuit:
    """The circuit as it is compared: as it is (`keep`), or with places summed (`sum`)."""
    return circuit if places == KEEP else summed(circuit)
