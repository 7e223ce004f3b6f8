"""Pictures of docs/planted.md: the motifs, what is found of the telling ones, and recall as squares."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from experiments.frontier.tables import chosen, names
from experiments.frontier.tables import figure as written
from experiments.planted.measure import DIRECTIONS
from experiments.planted.motifs import MOTIFS, Motif
from experiments.planted.tables import Rows, mean_of, of_main, plain
from featcircuits.files.palette import INK, NEGATIVE, NEUTRAL, PALE, POSITIVE, tint
from featcircuits.files.pictures import save, styled
from featcircuits.model.nodes import METRIC, Node

TELLING = ("and", "or", "negation", "backup", "cancelling", "saturated")
ASKED = (
    ("exact", "noising"),
    ("exact", "denoising"),
    ("atp", "noising"),
    ("atp", "denoising"),
    ("secant", "noising"),
)
"""The motifs and the methods of the picture of hits and misses."""


def draw(rows: Rows, folder: Path) -> None:
    """All pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    save(motifs([motif for motif in MOTIFS.values() if not motif.design.decoys]), folder / "motifs.png")
    save(squares(plain(rows), "estimator", "recall"), folder / "nodes.png")
    save(squares(plain(rows), "estimator", "edge_recall"), folder / "edges.png")
    save(squares(of_main(rows), "rule", "area"), folder / "rules.png")
    if {*TELLING} <= {*names(rows, "motif")} and {name for name, _ in ASKED} <= {*names(rows, "estimator")}:
        save(hits(rows), folder / "hits.png")


def motifs(shown: Sequence[Motif]) -> Any:
    """Each circuit: its features at the sites where they act, and its edges."""
    from matplotlib.figure import Figure

    with styled():
        height = -(-len(shown) // 3)
        figure = Figure(figsize=(9, 1.35 * height), layout="constrained")
        panels = list(figure.subplots(height, 3, squeeze=False).flat)
        for axes, motif in zip(panels, shown, strict=False):
            _circuit(axes, motif, set())
            axes.set_title(motif.name, loc="left", fontweight="bold")
        for axes in panels[len(shown) :]:
            axes.axis("off")
    return figure


def hits(rows: Rows) -> Any:
    """The telling motifs with what is not among an estimator's first nodes drawn hollow."""
    from matplotlib.figure import Figure

    with styled():
        figure = Figure(figsize=(11.5, 1.3 * len(TELLING)), layout="constrained")
        panels = figure.subplots(len(TELLING), len(ASKED))
        for line, name in zip(panels, TELLING, strict=True):
            for axes, (estimator, direction) in zip(line, ASKED, strict=True):
                row = plain(rows, motif=name, estimator=estimator, direction=direction)[0]
                _circuit(axes, MOTIFS[name], {*row["missed"]})
                axes.set_title(f"{name}: {estimator}, {direction}", loc="left", fontsize=7)
    return figure


def _circuit(axes: Any, motif: Motif, missed: Collection[str]) -> None:
    """Sites from left to right, a line for each feature (for each token at the embedding)."""
    nodes = sorted(motif.nodes, key=lambda node: (node.site, node.feature, node.place))
    sites = list(dict.fromkeys(node.site for node in nodes))
    lanes = list(dict.fromkeys(node.feature for node in nodes))
    spot: dict[Node | str, tuple[float, float]] = {}
    for node in nodes:
        same = [one for one in nodes if (one.site, one.feature) == (node.site, node.feature)]
        offset = (same.index(node) - (len(same) - 1) / 2) * 0.8
        spot[node] = sites.index(node.site), -lanes.index(node.feature) + offset
    ends = [spot[source][1] for source, target in motif.edges if target == METRIC]
    spot[METRIC] = len(sites), sum(ends) / len(ends)
    lost = {node for node in nodes if motif.said(node) in missed}
    for source, target in sorted(motif.edges, key=str):
        gone = {source, target} & lost
        axes.plot(*zip(spot[source], spot[target], strict=True), color=tint(NEUTRAL, 0.4) if gone else NEUTRAL,
                  linewidth=0.8, linestyle=":" if gone else "-", zorder=1)  # fmt: skip
    for node in nodes:
        away = node in lost
        axes.scatter(*spot[node], s=90, zorder=2, linewidth=0.9, edgecolor=NEGATIVE if away else POSITIVE,
                     facecolor="white" if away else tint(POSITIVE, 0.25))  # fmt: skip
        text = motif.design.names[node.feature or 0] + (f"{node.place}" if node.site == sites[0] else "")
        axes.text(*spot[node], text, ha="center", va="center", fontsize=5.5, color=NEGATIVE if away else INK)
    axes.text(*spot[METRIC], "F", ha="center", va="center", fontsize=7, zorder=3, backgroundcolor="white")
    _frame(axes, [str(site) for site in sites], [y for _, y in spot.values()])


def _frame(axes: Any, sites: Sequence[str], heights: Sequence[float]) -> None:
    axes.set_xlim(-0.5, len(sites) + 0.4)
    axes.set_ylim(min(heights) - 0.6, max(heights) + 0.6)
    axes.set_xticks(range(len(sites)), sites, fontsize=5, color=PALE)
    axes.set_yticks([])
    axes.tick_params(length=0, pad=1)
    for spine in axes.spines.values():
        spine.set_visible(False)


def squares(rows: Rows, down: str, what: str) -> Any:
    """A square per cell, white where nothing is found and blue where all is; its figure where it is neither."""
    from matplotlib.figure import Figure

    have = [row for row in rows if what in row]
    lines, columns = names(have, down), names(have, "motif")
    with styled():
        figure = Figure(figsize=(8.4, 1.1 + 0.2 * len(lines)), layout="constrained")
        for axes, direction in zip(figure.subplots(1, len(DIRECTIONS), sharey=True), DIRECTIONS, strict=True):
            own = chosen(have, direction=direction)
            cells = [[mean_of(chosen(own, motif=x, **{down: y}), what) for x in columns] for y in lines]
            _panel(axes, lines, columns, cells)
            axes.set_title(direction)
    return figure


def _panel(axes: Any, lines: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[float | None]]) -> None:
    from matplotlib.patches import Rectangle

    for y, values in enumerate(cells):
        for x, value in enumerate(values):
            if value is None:
                continue
            axes.add_patch(Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, color=tint(POSITIVE, 0.06 + 0.74 * value)))
            if value < 1:
                axes.text(x, y, written(value), ha="center", va="center", fontsize=5, color=INK)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_xticks(range(len(columns)), columns, rotation=90)
    axes.set_yticks(range(len(lines)), lines)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
