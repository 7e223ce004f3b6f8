"""The layout: where a viewer draws each node, how large and in which colour.

Layers go upwards: inputs at the bottom, one band per site, the sites of a layer close together, the metric on top.
Places go from left to right. The nodes of a site at a place fill a small block, the strongest first, the error last.
Exports, pages and pictures all take their positions from here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

from featcircuits.circuit.circuit import Circuit
from featcircuits.circuit.membership import KEY, colours_in
from featcircuits.files.palette import sign_colour
from featcircuits.inputs.arguments import expect
from featcircuits.model.nodes import METRIC
from featcircuits.model.sites import EMBED_LAYER, Site

if TYPE_CHECKING:
    import networkx as nx

_SMALLEST, _LARGEST = 4.0, 40.0
_THIN, _THICK = 0.5, 8.0


class Spacing(NamedTuple):
    """Distances of a layout. Those between sites, layers and places are added to the distance of two nodes.

    Where nodes have a `height` of their own, `line` is the distance between two of them, one above the other.
    """

    step: float = 120.0
    """Between two nodes of a row; a label fits between them."""
    line: float = 64.0
    """Between two rows of a block."""
    site: float = 40.0
    layer: float = 100.0
    place: float = 90.0
    aspect: float = 0.35
    """The ratio of a block's rows to its columns. Blocks are wide, since there are more sites than places."""


_Spot = tuple[int, str]
"""The band of a node, counted from the inputs, and its place."""


def drawn(circuit: Circuit | nx.DiGraph, spacing: Spacing | None = None) -> nx.DiGraph:
    """The graph of a circuit, or a contracted one (`circuit.grouped()`), as `laid_out` adds positions and colours."""
    return laid_out(graph_to_draw(circuit), spacing)


def graph_to_draw(circuit: Circuit | nx.DiGraph) -> nx.DiGraph:
    """The graph of a circuit, or a copy of a contracted one; raises `InputError` for anything else."""
    graph = getattr(circuit, "graph", None)
    if isinstance(graph, dict) and "places" in graph:
        return circuit.copy()  # type: ignore[union-attr]
    expect("circuit", circuit, Circuit)
    assert isinstance(circuit, Circuit)
    return circuit.to_networkx()


def laid_out(graph: nx.DiGraph, spacing: Spacing | None = None) -> nx.DiGraph:
    """The graph, with the attributes of `circuit.to_networkx()`, and with positions, sizes and colours added.

    Nodes get `x`, `y`, `size` (a diameter) and `color` ("#0072b2"), edges `thickness` and `color`. Areas of nodes
    and widths of edges grow with |effect|. Colours are those of signs, in a union those of memberships.
    """
    nodes, edges = graph.nodes(data=True), graph.edges(data=True)
    strongest = max((abs(data["effect"]) for _, data in nodes), default=0.0)
    heaviest = max((abs(data["weight"]) for *_, data in edges), default=0.0)
    positions = _positions(graph, spacing or Spacing())
    colours = colours_in(json.loads(graph.graph["manifest"]))
    for name, data in nodes:
        x, y = positions[name]
        size = _scaled(data["effect"], strongest, _SMALLEST, _LARGEST)
        data.update(x=x, y=y, size=size, color=colours.get(data.get(KEY, ""), sign_colour(data["effect"])))
    for _, _, data in edges:
        colour = colours.get(data.get(KEY, ""), sign_colour(data["weight"]))
        data.update(thickness=_scaled(data["weight"], heaviest, _THIN, _THICK), color=colour)
    return graph


def _scaled(value: float, largest: float, low: float, high: float) -> float:
    """The square root of |value|, so that areas are proportional to |value|."""
    return low + (high - low) * math.sqrt(abs(value) / largest) if largest else low


def _positions(graph: nx.DiGraph, spacing: Spacing) -> dict[str, tuple[float, float]]:
    sites = sorted({Site.parse(data["site"]) for _, data in graph.nodes(data=True) if data["site"]})
    tall = {name: spacing.line + data.get("height", 0.0) for name, data in graph.nodes(data=True)}
    blocks = _blocks(graph, sites, spacing.aspect)
    rows = {spot: [max(tall[name] for name in row) for row in block] for spot, block in blocks.items()}
    heights = _largest({spot: sum(sizes) for spot, sizes in rows.items()}, 0)
    widths = _largest({spot: _width(block) * spacing.step for spot, block in blocks.items()}, 1)
    bands = _centres(sorted(heights), heights, _gaps(sorted(heights), sites, spacing))
    order = [_text(place) for place in json.loads(graph.graph["places"])]
    places = [place for place in order if place in widths]
    columns = _centres(places, widths, [spacing.place] * len(places))
    found = {
        name: (columns[place] + x, bands[band] + y)
        for (band, place), block in blocks.items()
        for name, x, y in _inside(block, rows[band, place], spacing.step)
    }
    if METRIC in graph:
        top = max((y + tall[name] / 2 for name, (_, y) in found.items()), default=0.0)
        found[METRIC] = (0.0, top + spacing.layer + tall[METRIC] / 2)
    return found


def _gaps(bands: Sequence[int], sites: Sequence[Site], spacing: Spacing) -> list[float]:
    """The extra distance from each band to the next; band 0 holds the inputs."""
    layers = [EMBED_LAYER - 1, *(site.layer for site in sites)]
    return [spacing.site if layers[a] == layers[b] else spacing.layer for a, b in pairwise(bands)]


def _blocks(graph: nx.DiGraph, sites: Sequence[Site], aspect: float) -> dict[_Spot, list[list[str]]]:
    """(band, place) -> the rows of node names there, the strongest node first, the error last."""
    band = {str(site): number for number, site in enumerate(sites, 1)}
    cells: dict[_Spot, list[str]] = {}
    for name, data in sorted(graph.nodes(data=True), key=_rank):
        if name != METRIC:
            cells.setdefault((band.get(data["site"], 0), data["place"]), []).append(name)
    return {spot: _rows(names, aspect) for spot, names in cells.items()}


def _rank(item: tuple[str, Mapping[str, Any]]) -> tuple[bool, float, str]:
    name, data = item
    return data["kind"] == "error", -abs(data["effect"]), name


def _rows(names: Sequence[str], aspect: float) -> list[list[str]]:
    """As few rows as the aspect allows, all but the last equally long."""
    rows = math.ceil(len(names) / math.ceil(math.sqrt(len(names) / aspect)))
    columns = math.ceil(len(names) / rows)
    return [list(names[start : start + columns]) for start in range(0, len(names), columns)]


def _starts(block: Sequence[Sequence[str]]) -> list[float]:
    """Where each row of a block begins, in steps. Rows are set off by half a step, so that edges pass between nodes."""
    starts: list[float] = []
    for names in block:
        start = -(len(names) - 1) / 2
        starts.append(start + 0.5 if starts and (start - starts[-1]) % 1 == 0 else start)
    return starts


def _width(block: Sequence[Sequence[str]]) -> float:
    """The number of steps that a block takes."""
    starts = _starts(block)
    return max(start + len(names) for start, names in zip(starts, block, strict=True)) - min(starts)


def _inside(
    block: Sequence[Sequence[str]], heights: Sequence[float], step: float
) -> Iterator[tuple[str, float, float]]:
    """(name, x, y) of a block's nodes, relative to its centre, the first row on top."""
    rows, starts = _centres(range(len(block)), heights, ()), _starts(block)
    middle = min(starts) + (_width(block) - 1) / 2
    for row, names in enumerate(block):
        for column, name in enumerate(names):
            yield name, (starts[row] + column - middle) * step, -rows[row]


def _largest(sizes: Mapping[_Spot, float], axis: int) -> dict[Any, float]:
    """The size of the largest block in each band (axis 0) or place (axis 1)."""
    found: dict[Any, float] = {}
    for spot, size in sizes.items():
        found[spot[axis]] = max(size, found.get(spot[axis], 0.0))
    return found


def _centres(names: Sequence[Any], sizes: Any, gaps: Sequence[float]) -> dict[Any, float]:
    """The centres of blocks in a line, with gaps after each but the last; the line is centred at 0."""
    end = 0.0
    found: dict[Any, float] = {}
    for name, gap in zip_longest(names, gaps[: len(names) - 1], fillvalue=0.0):
        found[name] = end + sizes[name] / 2
        end += sizes[name] + gap
    return {name: centre - end / 2 for name, centre in found.items()}


def _text(place: int | str | None) -> str:
    return "" if place is None else str(place)
