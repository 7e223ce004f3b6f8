"""Control curves as a picture: the same nodes under every ablation, and the controls that they must beat."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from featcircuits.errors import InputError
from featcircuits.files.palette import INK, NEUTRAL, SERIES
from featcircuits.files.pictures import logarithmic, save, styled
from featcircuits.validation.controls import ControlCurves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DRAWN = {
    "mean": ("o-", SERIES[0]), "zero": ("s-", SERIES[1]), "resample": ("^-", SERIES[2]), "paired": ("v-", SERIES[3]),
    "optimal": ("D-", SERIES[4]), "stochastic": ("-", INK), "stochastic 5 %": ("--", INK), "adversarial": (":", INK),
    "adversarial few": ("-.", INK), "random": ("--", NEUTRAL), "nonsense": ("x-", NEUTRAL),
}  # fmt: skip
"""Ablations of the whole outside in colours, of parts of it in ink, and controls in grey."""


def plot_controls(found: ControlCurves, path: str | Path) -> None:
    """Write `draw_controls` as PNG, PDF or SVG, by the suffix of `path`; raises `InputError` for another suffix."""
    save(draw_controls(found), Path(path))


@styled()
def draw_controls(found: ControlCurves) -> Figure:
    """Draw every curve that has scores over the sizes; raises `InputError` if none has."""
    from matplotlib.figure import Figure

    curves = [curve for curve in found.curves if curve.scores is not None]
    if not curves:
        raise InputError(f"no curve can be drawn: {found.curves[0].invalid}")
    figure = Figure(figsize=(5.4, 4.6), layout="constrained")
    axes = figure.add_subplot()
    for curve in curves:
        style, colour = _DRAWN[curve.name]
        axes.plot(found.sizes, curve.scores or (), style, color=colour, markersize=3, label=curve.name)
    for height in (0, 1):
        axes.axhline(height, color=INK, linewidth=0.5, zorder=0)
    logarithmic(axes)
    axes.set_xlabel("nodes")
    axes.set_ylabel("f: share of F(model) - F(empty)")
    axes.set_title(f"{found.task}: every ablation and control", parse_math=False)
    figure.legend(loc="outside lower center", ncols=3)
    return figure
