"""A validation as one picture: what nodes and edges carry under every ablation, beside the controls."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcircuits.files.palette import INK, NEUTRAL, SERIES
from featcircuits.files.pictures import logarithmic, save, styled
from featcircuits.validation.validate import Validation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CONTROL = "--"


def plot_validation(found: Validation, path: str | Path) -> None:
    """Write `draw_validation` as PNG, PDF or SVG, by the suffix of `path`."""
    save(draw_validation(found), Path(path))


@styled()
def draw_validation(found: Validation) -> Figure:
    """Nodes on the left, edges on the right if there are any; dashed lines are controls."""
    from matplotlib.figure import Figure

    edges = {name: part for name, part in found.parts.items() if name.startswith("edges ") and not part["invalid"]}
    figure = Figure(figsize=(8.4 if edges else 5.4, 4.4), layout="constrained")
    panels = list(figure.subplots(1, 2 if edges else 1, sharey=True, squeeze=False)[0])
    _draw_nodes(panels[0], found.parts)
    for part in edges.values():
        _draw_edges(panels[1], part)
    for axes in panels:
        for height in (0, 1):
            axes.axhline(height, color=INK, linewidth=0.5, zorder=0)
        logarithmic(axes)
    panels[0].set_ylabel("faithfulness; gain of nonsense")
    panels[0].set_title(f"{found.task}, {found.n_examples} examples", parse_math=False)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _draw_nodes(axes: Axes, parts: Mapping[str, Any]) -> None:
    curves = {name.partition(" ")[2]: part["curve"] for name, part in parts.items() if name.startswith("curve ")}
    drawn = {name: curve for name, curve in curves.items() if curve is not None}
    for color, (name, curve) in zip(SERIES, drawn.items(), strict=False):
        axes.plot(curve["sizes"], curve["faithfulness"], "o-", color=color, markersize=3, label=name)
    for curve in list(drawn.values())[:1]:
        axes.plot(curve["sizes"], curve["random"], _CONTROL, color=NEUTRAL, label="random nodes (first ablation)")
    if (nonsense := parts.get("nonsense")) is not None:
        axes.plot(nonsense["sizes"], nonsense["gain"], ":", color=INK, label="nonsense: gain")
    axes.set_xlabel("nodes")


def _draw_edges(axes: Axes, part: Mapping[str, Any]) -> None:
    ablation = part["ablation"]
    axes.plot(
        part["sizes"], part["faithfulness"], "s-", color=SERIES[5], markersize=3, label=f"edges alone, {ablation}"
    )
    axes.plot(part["sizes"], part["nodes"], "o-", color=SERIES[6], markersize=3, label="their nodes, every connection")
    if part["random"]:
        axes.plot(part["sizes"], part["random"], _CONTROL, color=INK, linewidth=0.8, label="random edges")
    axes.set_xlabel("edges")
