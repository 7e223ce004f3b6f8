"""The layout: where a viewer draws each node, how large and in which colour.

Layers go upwards: inputs at the bottom, one band per site, the metric on top. Places go from left to
right, and the nodes of a site at a place fill a small block, the strongest first, each row centred.
Blue carries the behaviour, red works against it, grey has no effect of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from featcircuits.circuit.circuit import Circuit
from featcircuits.inputs.arguments import expect
from featcircuits.model.nodes import METRIC

if TYPE_CHECKING:
    import networkx as nx

_BLUE, _RED, _GREY = "#265ca8", "#c42c2c", "#8c8c8c"
_SMALLEST, _LARGEST = 4.0, 40.0
_THIN, _THICK = 0.5, 8.0
_STEP, _LINE = 120.0, 64.0
"""The distances between two nodes of a row (a label fits between them), and between the rows of a block."""
_GAP = 90.0
"""The extra distance between two sites, and between two places."""
_ASPECT = 1.3
"""The ratio of a block's rows to its columns; the block is then about 1.4 times as wide as it is high."""

_Spot = tuple[int, str]
"""The band of a node, counted from the inputs, and its place."""


def drawn(circuit: Circuit) -> nx.DiGraph:
    """The circuit's graph with positions, sizes and colours.

    Nodes get `x`, `y`, `size` (a diameter) and `color` ("#265ca8"), edges `thickness` and `color`. Areas of nodes
    and widths of edges grow with |effect|.
    """
    expect("circuit", circuit, Circuit)
    graph = circuit.to_networkx()
    strongest = max((abs(score.effect) for score in circuit.nodes.values()), default=0.0)
    heaviest = max(map(abs, circuit.edges.values()), default=0.0)
    positions = _positions(circuit, graph)
    for name, data in graph.nodes(data=True):
        x, y = positions[name]
        size = _scaled(data["effect"], strongest, _SMALLEST, _LARGEST)
        data.update(x=x, y=y, size=size, color=_colour(data["effect"]))
    for _, _, data in graph.edges(data=True):
        data.update(thickness=_scaled(data["weight"], heaviest, _THIN, _THICK), color=_colour(data["weight"]))
    return graph


def _colour(value: float) -> str:
    return _GREY if value == 0 else _BLUE if value > 0 else _RED


def _scaled(value: float, largest: float, low: float, high: float) -> float:
    """The square root of |value|, so that areas are proportional to |value|."""
    return low + (high - low) * math.sqrt(abs(value) / largest) if largest else low


def _positions(circuit: Circuit, graph: nx.DiGraph) -> dict[str, tuple[float, float]]:
    blocks = _blocks(circuit, graph)
    heights = _sizes({spot: len(rows) for spot, rows in blocks.items()}, 0)
    widths = _sizes({spot: max(map(len, rows)) for spot, rows in blocks.items()}, 1)
    bands = _centres(sorted(heights), {band: count * _LINE for band, count in heights.items()})
    places = [_text(place) for place in circuit.places if _text(place) in widths]
    columns = _centres(places, {place: count * _STEP for place, count in widths.items()})
    found = {
        name: (columns[place] + x, bands[band] + y)
        for (band, place), rows in blocks.items()
        for name, x, y in _inside(rows)
    }
    if METRIC in graph:
        found[METRIC] = (0.0, max((y for _, y in found.values()), default=0.0) + _LINE + _GAP)
    return found


def _blocks(circuit: Circuit, graph: nx.DiGraph) -> dict[_Spot, list[list[str]]]:
    """(band, place) -> the rows of node names there, the strongest node first."""
    band = {str(site): number for number, site in enumerate(sorted({node.site for node in circuit.nodes}), 1)}
    cells: dict[_Spot, list[str]] = {}
    for name, data in sorted(graph.nodes(data=True), key=lambda item: (-abs(item[1]["effect"]), item[0])):
        if name != METRIC:
            cells.setdefault((band.get(data["site"], 0), data["place"]), []).append(name)
    return {spot: _rows(names) for spot, names in cells.items()}


def _rows(names: Sequence[str]) -> list[list[str]]:
    columns = math.ceil(math.sqrt(len(names) / _ASPECT))
    return [list(names[start : start + columns]) for start in range(0, len(names), columns)]


def _inside(rows: Sequence[Sequence[str]]) -> Iterator[tuple[str, float, float]]:
    """(name, x, y) of a block's nodes, relative to its centre, the first row on top."""
    for row, names in enumerate(rows):
        y = ((len(rows) - 1) / 2 - row) * _LINE
        for column, name in enumerate(names):
            yield name, (column - (len(names) - 1) / 2) * _STEP, y


def _sizes(counts: Mapping[_Spot, int], axis: int) -> dict[Any, int]:
    """The size of the largest block in each band (axis 0) or place (axis 1)."""
    largest: dict[Any, int] = {}
    for spot, count in counts.items():
        largest[spot[axis]] = max(count, largest.get(spot[axis], 0))
    return largest


def _centres(names: Sequence[Any], sizes: Mapping[Any, float]) -> dict[Any, float]:
    """The centres of blocks in a line with gaps between them; the line is centred at 0."""
    edges = [0.0]
    for name in names:
        edges.append(edges[-1] + sizes[name] + _GAP)
    middle = (edges[-1] - _GAP) / 2
    return {name: (low + high - _GAP) / 2 - middle for name, (low, high) in zip(names, pairwise(edges), strict=True)}


def _text(place: int | str | None) -> str:
    return "" if place is None else str(place)
