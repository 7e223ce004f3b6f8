"""Edge curves as a picture, one panel per ablation: edges, their nodes, random edges, and the model without them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featcircuits.checks.edge_curve import EdgeCurve
from featcircuits.errors import InputError
from featcircuits.files.palette import INK, NEUTRAL, SERIES
from featcircuits.files.pictures import band, logarithmic, save, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_EDGES, _WITHOUT, _NODES = SERIES[:3]
_LEAST = 5.4
"""Inches: of the width, so that the legend fits below one panel."""


def plot_edges(curves: Sequence[EdgeCurve], path: str | Path) -> None:
    """Write `draw_edges` as PNG, PDF or SVG, by the suffix of `path`; raises `InputError` for another suffix."""
    save(draw_edges(curves), Path(path))


@styled()
def draw_edges(curves: Sequence[EdgeCurve]) -> Figure:
    """Draw the curves of one circuit side by side, one panel per ablation, on one scale of f.

    The band around edges is the 95 % interval, if there are enough examples; that around random edges is their standard
    deviation over draws. Raises `InputError` without curves, and for one whose shares mean nothing.
    """
    from matplotlib.figure import Figure

    if not curves:
        raise InputError("there are no edge curves to draw; give those of fc.edge_curve")
    if bad := [curve for curve in curves if curve.invalid]:
        raise InputError(f"the edge curve under {bad[0].ablation} ablation cannot be drawn: {bad[0].invalid}")
    figure = Figure(figsize=(max(_LEAST, 3.0 * len(curves) + 0.6), 3.4), layout="constrained")
    panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    for axes, curve in zip(panels, curves, strict=True):
        _draw(axes, curve)
    panels[0].set_ylabel("f: share of F(model) - F(empty)")
    figure.suptitle(f"{curves[0].task}, edges in {curves[0].order} order", parse_math=False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _draw(axes: Axes, curve: EdgeCurve) -> None:
    sizes = curve.sizes
    axes.plot(sizes, curve.faithfulness, "o-", color=_EDGES, markersize=3, label="these edges")
    low, high = np.array([pair or (np.nan, np.nan) for pair in curve.intervals]).T
    band(axes, sizes, low, high, _EDGES)
    axes.plot(sizes, curve.nodes, "^-", color=_NODES, markersize=3, label="their nodes, all connections")
    if curve.draws:
        mean, spread = np.array(curve.random), np.nan_to_num(np.array(curve.random_sd))
        axes.plot(sizes, mean, "--", color=NEUTRAL, label="random edges of the same connections")
        band(axes, sizes, mean - spread, mean + spread, NEUTRAL)
    if curve.necessity:
        axes.plot(sizes, curve.necessity, "s-", color=_WITHOUT, markersize=3, label="the model without these edges")
    for height in (0, 1):
        axes.axhline(height, color=INK, linewidth=0.5, zorder=0)
    logarithmic(axes)
    axes.set_xlabel(f"edges, of {curve.n_edges}")
    axes.set_title(f"{curve.ablation}: F(model) {curve.F_model:.2f}, F(empty) {curve.F_empty:.2f}", parse_math=False)
