"""The edges of a picture: curves that leave a box at its top and arrive at the bottom of another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import networkx as nx
    from matplotlib.axes import Axes

WIDEST, THINNEST = 4.5, 0.35
"""Points, of the heaviest edge and of those that are too light to have a width of their own."""
_APART, _SPREAD = 1.8, 0.8
"""Points between two edges at a box, all of which take no more than this share of its width."""

Point = tuple[float, float]


def draw_edges(axes: Axes, graph: nx.DiGraph, width: float, heaviest: float) -> None:
    """Draw all edges between boxes of this width, the light ones first."""
    starts, ends = (_ends(graph, width, heaviest, out) for out in (True, False))
    edges = sorted(graph.edges(data=True), key=lambda edge: abs(edge[2]["weight"]))
    for source, target, data in edges:
        _draw(axes, starts[source, target], ends[source, target], data, heaviest)


def thickness(weight: float, heaviest: float) -> float:
    """The width of an edge in points, in proportion to |weight|."""
    return max(WIDEST * abs(weight) / heaviest, THINNEST) if heaviest else THINNEST


def _ends(graph: nx.DiGraph, width: float, heaviest: float, out: bool) -> dict[tuple[str, str], Point]:
    """Where each edge leaves its source (`out`) or arrives at its target: side by side, so that few of them cross."""
    nodes: Mapping[str, Mapping[str, Any]] = graph.nodes
    found: dict[tuple[str, str], Point] = {}
    for name, data in nodes.items():
        edges = list(graph.out_edges(name) if out else graph.in_edges(name))
        edges.sort(key=lambda edge: (nodes[edge[out]]["x"], nodes[edge[out]]["y"], edge[out]))
        rooms = [thickness(graph.edges[edge]["weight"], heaviest) + _APART for edge in edges]
        scale = min(1.0, width * _SPREAD / sum(rooms)) if rooms else 1.0
        x, y = data["x"] - scale * sum(rooms) / 2, data["y"] + data["height"] * (0.5 if out else -0.5)
        for edge, room in zip(edges, rooms, strict=True):
            found[edge] = x + scale * room / 2, y
            x += scale * room
    return found


def _draw(axes: Axes, start: Point, end: Point, data: Mapping[str, Any], heaviest: float) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    bend = max(0.45 * abs(end[1] - start[1]), 8.0)  # the edges of groups may lead downwards
    curve = Path(
        [start, (start[0], start[1] + bend), (end[0], end[1] - bend), end],
        [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4],
    )
    weight = data["weight"]
    share = abs(weight) / heaviest if heaviest else 0.0
    axes.add_patch(
        PathPatch(
            curve, fill=False, capstyle="butt", edgecolor=data["color"], zorder=1,
            linewidth=thickness(weight, heaviest), alpha=0.25 + 0.5 * share**0.5,
        )
    )  # fmt: skip
