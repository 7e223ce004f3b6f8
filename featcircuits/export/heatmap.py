"""Where effects are: a heat map of sites and places, as SVG, PDF or PNG."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featcircuits.circuit.circuit import Circuit
from featcircuits.circuit.graph import metric_name, words_of
from featcircuits.errors import InputError
from featcircuits.export.boxes import SIZE, wrapped
from featcircuits.export.boxes import width as text_width
from featcircuits.files.palette import INK, NEGATIVE, PALE, POSITIVE
from featcircuits.files.pictures import drawable, format_of, save, styled
from featcircuits.inputs.arguments import expect
from featcircuits.model.sites import Site

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

_ROW, _COLUMN = 13.0, 32.0
"""Points: the size of a cell with its figure in it."""
_HIGHEST, _WIDEST = 620.0, 640.0
"""Points: more cells than fit are smaller, down to `_LEAST`; then the picture grows."""
_LEAST, _LOWEST = 7.0, 150.0
"""Points: of a cell, and of the whole map, beside which a colour bar has its name."""
_LONGEST = 60.0
"""Points: the room for a word below a narrow column."""
_TITLE, _GAP, _BAR = 22.0, 14.0, 62.0
"""Points: the room for the titles, between two maps, and for the colour bar with its name."""

Sums = Mapping[str, np.ndarray]
"""Title -> the summed effects [site, place]; NaN where there is no node."""


def heatmap(circuit: Circuit, path: str | Path, *, overwrite: bool = False) -> None:
    """Write `draw_heatmap` as SVG, PDF or PNG, by the suffix; raises `InputError` if the file already exists."""
    format_of(path)
    save(draw_heatmap(circuit), path, overwrite=overwrite)


def draw_heatmap(circuit: Circuit) -> Figure:
    """Draw the sum of the effects of all nodes at each site and place, of features and of errors side by side.

    Sites go upwards in the order of a forward pass; a dot stands where there is no node. For all nodes with an effect,
    give the ranking of a trace (`fc.trace(...).ranking`): each residual site then has all of the effect that passes
    through its layer. Raises `InputError` for a circuit without nodes.
    """
    expect("circuit", circuit, Circuit)
    if not circuit.nodes:
        raise InputError("the circuit has no nodes, so there is nothing to draw; give one with nodes")
    with styled():
        return _figure(circuit)


def _figure(circuit: Circuit) -> Figure:
    from matplotlib.figure import Figure

    sites = sorted({node.site for node in circuit.nodes})
    sums, count = _sums(circuit, sites), len(circuit.places)
    wide = min(_COLUMN, max(_WIDEST / (2 * count), _LEAST))
    row = min(_ROW, max(_HIGHEST / len(sites), _LEAST))
    names, level = _names(circuit, wide)
    left = max(text_width(str(site)) for site in sites) + 30
    bottom = (2.4 * SIZE if level else max(map(text_width, names))) + 26
    size = (left + len(sums) * (count * wide + _GAP) + _BAR, bottom + max(len(sites) * row, _LOWEST) + _TITLE)
    figure = Figure(figsize=(size[0] / 72, size[1] / 72))
    unit = _unit(max(float(np.nanmax(np.abs(table))) for table in sums.values()))
    sums = {title: table / unit for title, table in sums.items()}
    largest = max(float(np.nanmax(np.abs(table))) for table in sums.values()) or 1.0
    images = []
    for number, (title, table) in enumerate(sums.items()):
        x = left + number * (count * wide + _GAP)
        axes = figure.add_axes(_share((x, bottom, count * wide, size[1] - bottom - _TITLE), size))
        images.append(_draw(axes, table, largest))
        if wide >= _COLUMN:
            _write_figures(axes, table, largest, min(SIZE, 0.75 * row))
        axes.set_title(title)
        axes.set_xticks(
            range(count), names, rotation=0 if level else 90, fontsize=min(SIZE, 0.8 * wide), parse_math=False
        )
        axes.set_yticks(range(len(sites)), [] if number else list(map(str, sites)), fontsize=min(SIZE, 0.75 * row))
    figure.axes[0].set_ylabel("site (forward order)")
    kind = {"none": "position", "role": "role", "sum": "positions"}[circuit.aggregate]
    said = f"{kind}, with its first word" if words_of(circuit.manifest) else kind
    figure.text((left + size[0] - _BAR) / 2 / size[0], 6 / size[1], said, ha="center", fontsize=8)
    bar = figure.add_axes(_share((size[0] - _BAR, bottom, 8, size[1] - bottom - _TITLE), size))
    said = f"sum of effects{'' if unit == 1 else f' / {unit:.0e}'} ({metric_name(circuit.manifest)})"
    figure.colorbar(images[0], cax=bar, label=said).outline.set_visible(False)
    return figure


def _unit(largest: float) -> float:
    """1, or the power of ten of effects that are so small or large that their figures would not fit into a cell."""
    if largest == 0 or 0.01 <= largest < 10_000:
        return 1.0
    return max(10.0 ** math.floor(math.log10(largest)), sys.float_info.min)


def _share(box: tuple[float, float, float, float], size: tuple[float, float]) -> tuple[float, float, float, float]:
    """(x, y, width, height) in points as shares of a figure's size."""
    x, y, width, height = box
    return x / size[0], y / size[1], width / size[0], height / size[1]


def _sums(circuit: Circuit, sites: Sequence[Site]) -> Sums:
    """Of features and of errors, what the circuit has."""
    rows, columns = ({item: number for number, item in enumerate(items)} for items in (sites, circuit.places))
    sums = {title: np.full((len(sites), len(circuit.places)), np.nan) for title in ("features", "errors")}
    for node, score in circuit.nodes.items():
        table, cell = sums["errors" if node.is_error else "features"], (rows[node.site], columns[node.place])
        table[cell] = np.nan_to_num(table[cell]) + score.effect
    return {title: table for title, table in sums.items() if not np.isnan(table).all()}


def _draw(axes: Axes, table: np.ndarray, largest: float) -> AxesImage:
    """Draw one map, white where effects are 0."""
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("signs", [NEGATIVE, "#ffffff", POSITIVE])
    image = axes.imshow(table, cmap=colours, vmin=-largest, vmax=largest, origin="lower", aspect="auto")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    rows, columns = np.nonzero(np.isnan(table))
    axes.plot(columns, rows, ".", color=PALE, markersize=1.5)
    return image


def _write_figures(axes: Axes, table: np.ndarray, largest: float, size: float) -> None:
    """Write each sum into its cell, all with the same decimals: three figures of the largest."""
    decimals = max(0, 2 - math.floor(math.log10(largest)))
    for (row, column), value in np.ndenumerate(table):
        if not np.isnan(value):
            text = f"{value:.{decimals}f}"
            nothing = float(text) == 0
            colour = PALE if nothing else "white" if abs(value) > 0.6 * largest else INK
            text = "0" if nothing else text.replace("-", "\u2212")
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)


def _names(circuit: Circuit, wide: float) -> tuple[list[str], bool]:
    """The name of each column, with the word that the prompts have most often there; whether it is level."""
    words = words_of(circuit.manifest)
    places = ["all" if place is None else str(place) for place in circuit.places]
    first = [drawable(words.get(place, "").split(" | ")[0]) for place in places]
    names = [wrapped(drawable(place), _LONGEST, 1)[0] for place in places]
    level = wide >= _COLUMN and max(map(text_width, names)) <= wide
    between, room = ("\n", wide - 2) if level else ("  ", _LONGEST)
    return [between.join([name, *wrapped(word, room, 1)]) for name, word in zip(names, first, strict=True)], level
