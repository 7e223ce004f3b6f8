"""The README's picture: the strongest nodes and edges of the demo's circuit.

make demo
python -m experiments.readme_picture     # runs/demo/circuit.safetensors -> docs/pictures/demo.svg

Sites run from left to right, positions from bottom to top. The area of a node and the width of an edge are in
proportion to |effect|; blue carries the behaviour, red works against it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, PathPatch, Rectangle
from matplotlib.path import Path as Curve

import featcircuits as fc
from featcircuits.model.nodes import METRIC, Endpoint, Node, Place, input_node
from featcircuits.model.sites import Site

NODES, EDGES = 28, 110
BLUE, RED, INK, PALE, BAND = "#2f6db5", "#c8452f", "#22303c", "#7b8894", "#f2f5f8"
WIDEST = 7.0
"""Points, of the heaviest edge."""
LARGEST, SMALLEST = 0.40, 0.20
"""Radii of nodes; the smallest has room for a feature's number."""
ROW, GAP = 0.78, 0.85
"""Between two nodes of a site and position, and between two positions."""

Spot = tuple[float, float]
Edges = list[tuple[Endpoint, Endpoint, float]]


def strongest(circuit: fc.Circuit) -> tuple[list[Node], Edges]:
    """The nodes to draw, and the edges among them, inputs and the metric, the lightest first."""
    nodes = sorted(circuit.nodes, key=lambda node: -abs(circuit.nodes[node].effect))[:NODES]
    ends = {*nodes, *(input_node(node.place) for node in nodes), METRIC}
    edges = [(a, b, weight) for (a, b), weight in circuit.edges.items() if a in ends and b in ends]
    return nodes, sorted(edges, key=lambda edge: abs(edge[2]))[-EDGES:]


def spots(
    circuit: fc.Circuit, nodes: Iterable[Node], sites: list[Site]
) -> tuple[dict[Endpoint, Spot], dict[Place, Spot]]:
    """Where each end of an edge is drawn, and the (bottom, top) of each position's lane."""
    cells: dict[tuple[Place, Site], list[Node]] = {}
    for node in nodes:
        cells.setdefault((node.place, node.site), []).append(node)
    found: dict[Endpoint, Spot] = {}
    lanes: dict[Place, Spot] = {}
    bottom = 0.0
    for place in (place for place in circuit.places if any(place == other for other, _ in cells)):
        height = ROW * max(len(cell) for (other, _), cell in cells.items() if other == place)
        lanes[place] = bottom, bottom + height
        middle = bottom + height / 2
        found[input_node(place)] = 0.0, middle
        for (other, site), cell in cells.items():
            if other == place:
                column = 1.0 + sites.index(site)
                found |= {node: (column, middle + (k - (len(cell) - 1) / 2) * -ROW) for k, node in enumerate(cell)}
        bottom += height + GAP
    found[METRIC] = 1.25 + len(sites), sum(lanes[max(lanes, key=lambda place: lanes[place][0])]) / 2
    return found, lanes


def draw_edge(ax: Axes, start: Spot, end: Spot, weight: float, heaviest: float) -> None:
    """Leaves and arrives horizontally."""
    bend = max(0.45 * (end[0] - start[0]), 0.4)
    curve = Curve(
        [start, (start[0] + bend, start[1]), (end[0] - bend, end[1]), end],
        [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4],
    )
    share = abs(weight) / heaviest
    ax.add_patch(
        PathPatch(
            curve, fill=False, capstyle="butt", zorder=1, edgecolor=BLUE if weight > 0 else RED,
            linewidth=max(WIDEST * share, 0.6), alpha=0.35 + 0.4 * share**0.5,
        )
    )  # fmt: skip


def draw_node(ax: Axes, node: Node, spot: Spot, effect: float, largest: float) -> None:
    radius = max(LARGEST * (abs(effect) / largest) ** 0.5, SMALLEST)
    ax.add_patch(
        Circle(spot, radius, facecolor=BLUE if effect > 0 else RED, edgecolor="white", linewidth=1.2, zorder=3)
    )
    label = "err" if node.is_error else str(node.feature)
    ax.text(*spot, label, color="white", fontsize=8, fontweight="bold", ha="center", va="center_baseline", zorder=4)


def draw_end(ax: Axes, spot: Spot, text: str) -> None:
    ax.text(
        *spot, text, fontsize=9, color=INK, ha="center", va="center", zorder=4, linespacing=1.3,
        bbox={"boxstyle": "round,pad=0.45", "facecolor": "white", "edgecolor": PALE},
    )  # fmt: skip


def draw_frame(ax: Axes, sites: list[Site], lanes: Mapping[Place, Spot], words: Mapping[str, str]) -> None:
    """A band per layer with the names of its sites, and a title per lane."""
    top = max(high for _, high in lanes.values()) + 0.55
    for layer in sorted({site.layer for site in sites}):
        columns = [1.0 + k for k, site in enumerate(sites) if site.layer == layer]
        left, width = columns[0] - 0.5, len(columns)
        if layer % 2 == 0:
            ax.add_patch(Rectangle((left, -0.75), width, top + 1.3, facecolor=BAND, zorder=0))
        if width > 1:
            ax.text(left + width / 2, top + 0.3, f"layer {layer}", fontsize=10, color=INK, ha="center", va="center")
    for column, site in enumerate(sites, 1):
        ax.text(column, -0.45, site.kind, fontsize=9, color=PALE, ha="center", va="center")
    for place, (_, high) in lanes.items():
        title = f"position {place}: {words[str(place)]}"
        ax.text(-0.55, high + 0.28, title, fontsize=10, color=INK, style="italic", ha="left", va="center")


def words_at(circuit: fc.Circuit) -> dict[str, str]:
    """Place -> the words there, the most frequent first."""
    nodes = circuit.to_networkx().nodes.values()
    return {data["place"]: data["words"].replace(" | ", ", ") for data in nodes if data["place"]}


def picture(circuit: fc.Circuit) -> Figure:
    nodes, edges = strongest(circuit)
    sites = sorted({node.site for node in circuit.nodes})
    where, lanes = spots(circuit, nodes, sites)
    right, top = where[METRIC][0], max(high for _, high in lanes.values())
    figure = Figure(figsize=(11, 11 * (top + 2.05) / (right + 1.5)))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(-0.7, right + 0.8), ylim=(-0.8, top + 1.25), aspect="equal")
    ax.axis("off")
    draw_frame(ax, sites, lanes, words_at(circuit))
    heaviest = max(abs(weight) for *_, weight in edges)
    for source, target, weight in edges:
        draw_edge(ax, where[source], where[target], weight, heaviest)
    largest = max(abs(circuit.nodes[node].effect) for node in nodes)
    for node in nodes:
        draw_node(ax, node, where[node], circuit.nodes[node].effect, largest)
    for end in {end for edge in edges for end in edge[:2] if isinstance(end, str)}:
        draw_end(ax, where[end], "logit\ndifference" if end == METRIC else "input")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("circuit", nargs="?", default="runs/demo/circuit.safetensors")
    parser.add_argument("--out", default="docs/pictures/demo.svg")
    given = parser.parse_args()
    with mpl.rc_context({"svg.hashsalt": "featcircuits", "font.family": "DejaVu Sans"}):
        Path(given.out).parent.mkdir(parents=True, exist_ok=True)
        metadata = {"Date": None} if given.out.endswith(".svg") else None
        picture(fc.Circuit.load(given.circuit)).savefig(given.out, dpi=150, metadata=metadata)


if __name__ == "__main__":
    main()
