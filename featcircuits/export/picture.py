"""A circuit as a picture for papers: SVG, PDF and PNG.

Each node is a box with its number, its effect and its label, where the layout has it: layers upwards, places from left
to right, inputs at the bottom, the metric on top. Blue carries the behaviour, orange works against it, the darker the
more; in a union of circuits colours say which circuits have a node or edge. Error nodes are hollow. The width of an
edge is in proportion to its weight.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcircuits.circuit.circuit import Circuit
from featcircuits.circuit.graph import metric_name
from featcircuits.circuit.layout import Spacing, graph_to_draw, laid_out
from featcircuits.export.boxes import INSIDE, LEADING, SIZE, Box, boxes_of
from featcircuits.export.curves import draw_edges
from featcircuits.export.frame import (
    DASHES,
    HEADING,
    LEFT,
    draw_bands,
    draw_legend,
    draw_places,
    entries_of,
    least_width,
    legend_height,
    uncertain,
)
from featcircuits.files.palette import INK, tint
from featcircuits.files.pictures import format_of, save, styled
from featcircuits.inputs.ranges import MOST, Range, check_number
from featcircuits.model.nodes import METRIC

if TYPE_CHECKING:
    import networkx as nx
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TOP = 30
"""How many nodes a picture has, if no number is given."""
_MARGIN = 8.0
_PALEST, _DARKEST = 0.06, 0.5
"""Shares of the sign's colour in a box; letters stay legible on all of them."""


def picture(circuit: Circuit | nx.DiGraph, path: str | Path, *, top: int = TOP, overwrite: bool = False) -> None:
    """Write `draw_circuit` as SVG, PDF or PNG, by the suffix; raises `InputError` if the file already exists."""
    format_of(path)
    save(draw_circuit(circuit, top), path, overwrite=overwrite)


def draw_circuit(circuit: Circuit | nx.DiGraph, top: int = TOP) -> Figure:
    """Draw the `top` strongest nodes of a circuit and the edges among them, with their labels.

    `circuit` can be a contracted one (`circuit.grouped()`), in which each group is a node. The size of the figure
    follows from the number of nodes, so that no two texts overlap.
    """
    check_number("top", top, Range(1, MOST))
    whole = graph_to_draw(circuit)
    ranked = sorted((name for name, data in whole.nodes(data=True) if data["site"]), key=_rank(whole))
    graph = whole.subgraph({*whole} - {*ranked[top:]}).copy()
    note = f"{min(top, len(ranked))} of {len(ranked)} nodes, {len(graph.edges)} of {len(whole.edges)} edges"
    if METRIC in graph and graph.nodes[METRIC]["label"] == METRIC:
        graph.nodes[METRIC]["label"] = metric_name(json.loads(graph.graph["manifest"]))
    with styled():
        boxes, width = boxes_of(dict(graph.nodes(data=True)))
        for name, box in boxes.items():
            graph.nodes[name]["height"] = box.height
        spacing = Spacing(step=width + 9, line=6, site=11, layer=22, place=20)
        return _figure(laid_out(graph, spacing), boxes, width, note)


def _rank(graph: nx.DiGraph) -> Callable[[str], float]:
    return lambda name: -abs(graph.nodes[name]["effect"])


def _figure(graph: nx.DiGraph, boxes: dict[str, Box], width: float, note: str) -> Figure:
    """Draw a laid-out graph, whose positions are in points."""
    from matplotlib.figure import Figure

    rows = [data for _, data in graph.nodes(data=True)]
    xs = [data["x"] for data in rows] or [0.0]
    heaviest = max((abs(weight) for *_, weight in graph.edges(data="weight")), default=0.0)
    entries = entries_of(graph, heaviest, note)
    left = min(xs) - width / 2 - LEFT - _MARGIN
    right = max(max(xs) + width / 2, left + _MARGIN + least_width(entries)) + _MARGIN
    foot = min((data["y"] - data["height"] / 2 for data in rows), default=0.0) - _MARGIN
    top = max((data["y"] + data["height"] / 2 for data in rows), default=0.0) + _MARGIN
    room = right - left - 2 * _MARGIN
    bottom = foot - HEADING - legend_height(entries, room) - _MARGIN
    figure = Figure(figsize=((right - left) / 72, (top - bottom) / 72))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(left, right), ylim=(bottom, top))
    axes.axis("off")
    draw_bands(axes, graph, left, right)
    draw_places(axes, graph, width, foot)
    draw_edges(axes, graph, width, heaviest)
    largest = max((abs(data["effect"]) for data in rows), default=0.0)
    for name, data in graph.nodes(data=True):
        _draw_box(axes, data, boxes[name], width, abs(data["effect"]) / largest if largest else 0.0)
    draw_legend(axes, entries, left + _MARGIN, foot - HEADING, room)
    return figure


def _draw_box(axes: Axes, data: Mapping[str, Any], box: Box, width: float, share: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    left, top = data["x"] - width / 2, data["y"] + box.height / 2
    colour = data["color"] if data["site"] else INK
    hollow = data["kind"] == "error" or not data["site"]
    axes.add_patch(
        FancyBboxPatch(
            (left, top - box.height), width, box.height, boxstyle="round,pad=0,rounding_size=3", zorder=3,
            facecolor="white" if hollow else tint(colour, _PALEST + (_DARKEST - _PALEST) * share), edgecolor=colour,
            linewidth=1.8 if data["kind"] == "group" else 1.1 if hollow else 0.8,
            linestyle=DASHES if uncertain(data) else "solid",
        )
    )  # fmt: skip
    style: dict[str, Any] = {"fontsize": SIZE, "zorder": 4, "va": "baseline", "parse_math": False}
    baseline = top - INSIDE - 0.8 * LEADING
    if not data["site"]:
        axes.text(data["x"], baseline, box.name, weight="bold", ha="center", **style)
        return
    axes.text(left + INSIDE, baseline, box.name, weight="bold", ha="left", **style)
    axes.text(left + width - INSIDE, baseline, box.effect, ha="right", **style)
    for number, line in enumerate(box.label, 1):
        axes.text(left + INSIDE, baseline - number * LEADING, line, ha="left", **style)
