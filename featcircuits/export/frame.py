"""What stands around a circuit's boxes: bands of layers, names of sites and places, and the legend."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from featcircuits.circuit.membership import KEY, colours_in
from featcircuits.export.boxes import LEADING, SIZE, wrapped
from featcircuits.export.boxes import width as text_width
from featcircuits.export.curves import thickness
from featcircuits.files.palette import BAND, INK, NEGATIVE, PALE, POSITIVE, tint
from featcircuits.files.pictures import drawable

if TYPE_CHECKING:
    import networkx as nx
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

LEFT = 64.0
"""Points for the names of layers and sites."""
HEADING = 3.4 * LEADING
"""Points for a place's name and two lines of its words."""
_ROW, _SAMPLE = 12.0, 14.0
"""Points: the height of a row of the legend, and the width of what stands before a text."""
DASHES = (0, (2, 1.5))

Mark = Callable[[float, float], "Artist"]
"""Draws what an entry of the legend explains, with its left end at (x, y)."""


class Entry(NamedTuple):
    """An entry of the legend."""

    text: str
    mark: Mark | None = None


Spans = dict[Any, tuple[float, float]]


def draw_bands(axes: Axes, graph: nx.DiGraph, left: float, right: float) -> None:
    """Shade every other layer, and name layers and sites on the left."""
    from matplotlib.patches import Rectangle

    located = [data for _, data in graph.nodes(data=True) if data["site"]]
    layers, sites = (_spans(located, key, "y") for key in ("layer", "site"))
    kinds = {data["site"]: data["site_kind"] for data in located}
    for number, (layer, (low, high)) in enumerate(sorted(layers.items())):
        if number % 2 == 0:
            axes.add_patch(Rectangle((left, low - 5), right - left, high - low + 10, facecolor=BAND, zorder=0))
        if layer >= 0:
            _text(axes, left + 6, (low + high) / 2, f"layer {layer}", ha="left")
    for site, (low, high) in sites.items():
        _text(axes, left + LEFT - 4, (low + high) / 2, kinds[site], ha="right", color=PALE)


def draw_places(axes: Axes, graph: nx.DiGraph, width: float, y: float) -> None:
    """Name each place, with the prompts' words there, below its nodes."""
    located = [data for _, data in graph.nodes(data=True) if data["kind"] != "metric"]
    words = {data["place"]: data["words"] for data in located}
    for place, (low, high) in _spans(located, "place", "x", width).items():
        name = f"position {place}" if place.isdecimal() else place or "all positions"
        listed = drawable(words[place]).replace(" | ", ", ").replace("...", "…")
        lines = wrapped(listed, high - low, 2)
        _text(axes, (low + high) / 2, y, wrapped(drawable(name), high - low, 1)[0], va="top", weight="bold")
        _text(axes, (low + high) / 2, y - LEADING, "\n".join(lines), va="top", color=PALE)


def draw_legend(axes: Axes, entries: Sequence[Entry], left: float, top: float, width: float) -> None:
    """Draw the legend below `top`, as wide as the picture; `legend_height` is the room that it needs."""
    for entry, x, row in _flowing(entries, width):
        y = top - (row + 0.5) * _ROW
        if entry.mark is not None:
            axes.add_artist(entry.mark(left + x, y))
        _text(axes, left + x + (_SAMPLE + 4 if entry.mark else 0), y, entry.text, ha="left", va="center_baseline")


def legend_height(entries: Sequence[Entry], width: float) -> float:
    """Points."""
    return (1 + max((row for *_, row in _flowing(entries, width)), default=-1)) * _ROW


def least_width(entries: Sequence[Entry]) -> float:
    """Points for the longest entry."""
    return max(map(_own_width, entries), default=0.0)


def _own_width(entry: Entry) -> float:
    return text_width(entry.text) + (_SAMPLE + 4 if entry.mark else 0)


def _flowing(entries: Sequence[Entry], width: float) -> Iterator[tuple[Entry, float, int]]:
    """Each entry with where it begins, and its row."""
    x, row = 0.0, 0
    for entry in entries:
        own = _own_width(entry)
        if x and x + own > width:
            x, row = 0.0, row + 1
        yield entry, x, row
        x += own + 16


def entries_of(graph: nx.DiGraph, heaviest: float, note: str) -> list[Entry]:
    """The legend: what the picture has, and nothing that it has not; `note` comes last."""
    nodes = [data for _, data in graph.nodes(data=True) if data["site"]]
    found = _memberships(graph) or _signs(nodes)
    if any(data["kind"] == "error" for data in nodes):
        found.append(Entry("error of a dictionary", _bordered("solid")))
    if any(map(uncertain, nodes)):
        found.append(Entry("sign uncertain (95 %)", _bordered(DASHES)))
    for share in (1.0, 0.25) if heaviest else ():
        weight = float(f"{share * heaviest:.2g}")
        found.append(Entry(f"edge of weight {weight:g}", _line(thickness(weight, heaviest))))
    return [*found, Entry(note)]


def _signs(nodes: Sequence[Mapping[str, Any]]) -> list[Entry]:
    found = []
    if any(data["effect"] > 0 for data in nodes):
        found.append(Entry("carries the behaviour (darker: more)", _filled(POSITIVE)))
    if any(data["effect"] < 0 for data in nodes):
        found.append(Entry("works against it", _filled(NEGATIVE)))
    return found


def _memberships(graph: nx.DiGraph) -> list[Entry]:
    """What a union's colours mean, those that the picture has; none for another circuit."""
    rows = [*(data for _, data in graph.nodes(data=True)), *(data for *_, data in graph.edges(data=True))]
    shown = {data.get(KEY) for data in rows}
    colours = colours_in(json.loads(graph.graph["manifest"]))
    return [Entry(f"in {drawable(name)}", _filled(colour)) for name, colour in colours.items() if name in shown]


def _filled(colour: str) -> Mark:
    return partial(_sample, facecolor=tint(colour, 0.5), edgecolor=colour)


def _bordered(style: Any) -> Mark:
    return partial(_sample, facecolor="white", edgecolor=INK, linestyle=style)


def _sample(x: float, y: float, **style: Any) -> Artist:
    from matplotlib.patches import Rectangle

    return Rectangle((x, y - 3.5), _SAMPLE, 7, linewidth=0.8, **style)


def _line(width: float) -> Mark:
    def mark(x: float, y: float) -> Artist:
        from matplotlib.lines import Line2D

        return Line2D([x, x + _SAMPLE], [y, y], color=PALE, linewidth=width, solid_capstyle="butt")

    return mark


def uncertain(data: Mapping[str, Any]) -> bool:
    """Whether the 95 % interval of a node's effect includes 0."""
    return abs(data["effect"]) < 1.96 * data.get("standard_error", 0.0)


def _spans(rows: Sequence[Mapping[str, Any]], key: str, axis: str, size: float | None = None) -> Spans:
    """From where to where the boxes reach that have the same value of an attribute; `size` of a box, or its height."""
    found: Spans = {}
    for data in rows:
        half = (data["height"] if size is None else size) / 2
        low, high = found.get(data[key], (data[axis], data[axis]))
        found[data[key]] = min(low, data[axis] - half), max(high, data[axis] + half)
    return found


def _text(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    axes.text(x, y, text, **{"ha": "center", "va": "center", "fontsize": SIZE, "parse_math": False, **style})
