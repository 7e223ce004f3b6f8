"""Distances between circuits as heat maps, of nodes and of edges side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featcircuits.comparison.compare import Comparison
from featcircuits.files.palette import INK, PALE, POSITIVE
from featcircuits.files.pictures import drawable, save, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

_CELL, _MARGIN = 0.42, 1.5
"""Inches: the side of a cell, and the room for names."""
_FIGURES = 12
"""With more circuits, cells are too small for figures."""


def plot_distances(comparison: Comparison, path: str | Path, *, overwrite: bool = True) -> None:
    """Write `draw_distances` as PNG, SVG or PDF, by the suffix."""
    save(draw_distances(comparison), path, overwrite=overwrite)


def draw_distances(comparison: Comparison) -> Figure:
    """Draw 1 - weighted Jaccard of each two circuits, darker for nearer; of edges only where there are any."""
    tables = {what: comparison.distances(what) for what in ("nodes", "edges")}
    shown = {what: table for what, table in tables.items() if not _empty(table)}
    with styled():
        return _figure(shown or {"nodes": tables["nodes"]}, comparison.names)


def _empty(table: np.ndarray) -> bool:
    return bool(np.isnan(table[~np.eye(len(table), dtype=bool)]).all())


def _figure(tables: dict[str, np.ndarray], names: tuple[str, ...]) -> Figure:
    from matplotlib.figure import Figure

    side = _CELL * len(names)
    figure = Figure(figsize=(_MARGIN + len(tables) * (side + 0.3) + 0.7, _MARGIN + side + 0.3), layout="constrained")
    panels = figure.subplots(1, len(tables), squeeze=False)[0]
    images = [_draw(axes, table, what, names) for axes, (what, table) in zip(panels, tables.items(), strict=True)]
    for axes in panels[1:]:
        axes.set_yticklabels([])
    bar = figure.colorbar(images[0], ax=panels.tolist(), label="distance (1 \u2212 weighted Jaccard)")
    bar.outline.set_visible(False)  # type: ignore[operator]
    return figure


def _draw(axes: Axes, table: np.ndarray, what: str, names: tuple[str, ...]) -> AxesImage:
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("distances", [POSITIVE, "#ffffff"])
    image = axes.imshow(table, cmap=colours, vmin=0, vmax=1)
    axes.set_title(what)
    ticks, shown = range(len(names)), [drawable(name) for name in names]
    axes.set_xticks(ticks, shown, rotation=90, parse_math=False)
    axes.set_yticks(ticks, shown, parse_math=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for (row, column), value in np.ndenumerate(table):
        if len(names) <= _FIGURES or np.isnan(value):
            text, colour = ("\u2013", PALE) if np.isnan(value) else (f"{value:.2f}", "white" if value < 0.4 else INK)
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=6.5)
    return image
