"""Where a viewer draws each node, how large and in which colour.

Layers run upwards from the inputs to the metric; places run from left to right, and within a place
the nodes of a site stand side by side, the strongest first. Blue carries the behaviour, red works
against it, grey has no effect of its own.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from featcircuits.nodes import METRIC, Place

if TYPE_CHECKING:
    import networkx as nx

    from featcircuits.circuit import Circuit

_BLUE = {"r": 38, "g": 92, "b": 168, "a": 1.0}
_RED = {"r": 196, "g": 44, "b": 44, "a": 1.0}
_GREY = {"r": 140, "g": 140, "b": 140, "a": 1.0}
_SMALLEST, _LARGEST = 4.0, 40.0
_ROW = 120.0
_STEP = 45.0


def with_viz(circuit: Circuit, graph: nx.DiGraph) -> nx.DiGraph:
    """A copy of the circuit's graph with Gephi's `viz` attributes."""
    drawn = graph.copy()
    positions = _positions(circuit, graph)
    strongest = max((abs(score.effect) for score in circuit.nodes.values()), default=0.0)
    heaviest = max(map(abs, circuit.edges.values()), default=0.0)
    for name, data in drawn.nodes(data=True):
        x, y = positions[name]
        data["viz"] = {
            "color": _colour(data["effect"]),
            "size": _scaled(data["effect"], strongest, _SMALLEST, _LARGEST),
            "position": {"x": x, "y": y, "z": 0.0},
        }
    for _, _, data in drawn.edges(data=True):
        thickness = _scaled(data["weight"], heaviest, 0.5, 8.0)
        data["viz"] = {"color": _colour(data["weight"]), "thickness": thickness}
    return drawn


def _colour(value: float) -> dict[str, Any]:
    return dict(_GREY if value == 0 else _BLUE if value > 0 else _RED)


def _scaled(value: float, largest: float, low: float, high: float) -> float:
    """Area in proportion to |value|."""
    return low + (high - low) * math.sqrt(abs(value) / largest) if largest else low


def _positions(circuit: Circuit, graph: nx.DiGraph) -> dict[str, tuple[float, float]]:
    sites = sorted({node.site for node in circuit.nodes})
    height = {str(site): (1 + row) * _ROW for row, site in enumerate(sites)}
    ordered = sorted(graph.nodes(data=True), key=lambda item: (-abs(item[1]["effect"]), item[0]))
    crowd = Counter((data["site"], data["place"]) for _, data in ordered)
    columns = _columns(circuit.places, crowd)
    turn: Counter[tuple[str, str]] = Counter()
    found = {}
    for name, data in ordered:
        spot = (data["site"], data["place"])
        x = columns.get(data["place"], 0.0) + turn[spot] * _STEP
        turn[spot] += 1
        found[name] = (x, height.get(data["site"], 0.0))
    if METRIC in found:
        found[METRIC] = (max(x for x, _ in found.values()) / 2, (1 + len(sites)) * _ROW)
    return found


def _columns(places: tuple[Place, ...], crowd: Counter[tuple[str, str]]) -> dict[str, float]:
    """Left edge of each place: as wide as its most crowded site needs."""
    left, columns = 0.0, {}
    for place in places:
        name = "" if place is None else str(place)
        columns[name] = left
        left += _STEP * (1 + max((count for (_, at), count in crowd.items() if at == name), default=0))
    return columns
