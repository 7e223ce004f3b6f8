"""Several circuits as one, for every exporter: each node and edge with the circuits that have it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from featcircuits.circuit.circuit import Circuit, NodeScore
from featcircuits.circuit.membership import KEY, called, membership_record
from featcircuits.errors import InputError
from featcircuits.model.nodes import Endpoint, Node, Place

K = TypeVar("K", bound=Hashable)

MOST = 24
"""The most circuits of a union; the memberships of more could not be told apart."""
_ORIGINS = ("featcircuits", "versions", "model", "suite", "task", "prompt")
"""What a union's manifest has of its circuits' manifests, as far as it is the same in all."""


def union(circuits: Mapping[str, Circuit]) -> Circuit:
    """All nodes and edges, with their mean effect over the circuits that have them, the strongest first.

    Which circuits these are is in the manifest (`membership`), from where every export has it as an attribute and a
    colour, and nodes are in groups by it ("all circuits", "ioi + gender"). Raises `InputError` for more than 24.
    """
    if len(circuits) > MOST:
        raise InputError(f"a union of {len(circuits)} circuits cannot be told apart; give {MOST} at most")
    names, whole = [*circuits], [*circuits.values()]
    nodes = _members([circuit.nodes for circuit in whole])
    edges = _members([circuit.edges for circuit in whole])
    effects = {node: _mean([whole[at].nodes[node].effect for at in own]) for node, own in nodes.items()}
    ranked = sorted(nodes, key=lambda node: -abs(effects[node]))
    record = membership_record(
        names,
        {str(node): own for node, own in nodes.items()},
        {(str(source), str(target)): own for (source, target), own in edges.items()},
    )
    labels: dict[Endpoint, str] = {}
    for circuit in reversed(whole):
        labels.update(circuit.labels)
    return Circuit(
        {node: NodeScore(effects[node]) for node in ranked},
        {edge: _mean([whole[at].edges[edge] for at in own]) for edge, own in edges.items()},
        _places(whole),
        whole[0].aggregate,
        {**_origins(whole), KEY: record},
        labels,
        _groups(nodes, names),
    )


def _members(tables: Sequence[Mapping[K, Any]]) -> dict[K, list[int]]:
    """Item -> the numbers of the tables that have it."""
    found: dict[K, list[int]] = {}
    for number, table in enumerate(tables):
        for item in table:
            found.setdefault(item, []).append(number)
    return found


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _groups(nodes: Mapping[Node, Sequence[int]], names: Sequence[str]) -> dict[str, list[Node]]:
    found: dict[str, list[Node]] = {}
    for node, members in nodes.items():
        found.setdefault(called(members, names), []).append(node)
    return found


def _places(circuits: Sequence[Circuit]) -> tuple[Place, ...]:
    """All places; positions in their order, roles as they first occur."""
    found = dict.fromkeys(place for circuit in circuits for place in circuit.places)
    return tuple(sorted(found)) if all(type(place) is int for place in found) else tuple(found)  # type: ignore[type-var]


def _origins(circuits: Sequence[Circuit]) -> dict[str, Any]:
    """What is the same in all manifests; of mappings, the entries that are."""
    found = {}
    for name in _ORIGINS:
        first, *others = (circuit.manifest.get(name) for circuit in circuits)
        tables = [other for other in others if isinstance(other, Mapping)]
        if isinstance(first, Mapping) and len(tables) == len(others):
            found[name] = {key: value for key, value in first.items() if all(o.get(key) == value for o in tables)}
        elif first is not None and all(other == first for other in others):
            found[name] = first
    return found
