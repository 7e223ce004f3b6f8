"""The faithfulness curve as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcircuits.errors import InputError
from featcircuits.evaluation.report import Curve, Report
from featcircuits.files.palette import INK, NEUTRAL, SERIES
from featcircuits.files.pictures import band, logarithmic, save, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FAITHFULNESS, _COMPLETENESS, _CIRCUIT, _ALL_FEATURES = SERIES[:4]


def plot_curve(report: Report, path: str | Path) -> None:
    """Write `draw_curve` as PNG, PDF or SVG, by the suffix of `path`; raises `InputError` for another suffix."""
    save(draw_curve(report), Path(path))


@styled()
def draw_curve(report: Report) -> Figure:
    """Draw faithfulness and completeness over circuit sizes, with random circuits and the circuit itself.

    Bands and the circuit's bar are 95 % intervals, if there are enough examples. The band around random
    circuits is their standard deviation over draws.
    """
    from matplotlib.figure import Figure

    if report.curve is None:
        raise InputError("the report has no curve to plot; evaluate with sizes")
    curve = report.curve
    figure = Figure(figsize=(5.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    _draw_scores(axes, curve)
    _draw_random(axes, curve)
    _draw_circuit(axes, report)
    axes.axhline(
        report.features_alone, color=_ALL_FEATURES, linewidth=1, linestyle=":", label="all features, errors ablated"
    )
    for height in (0, 1):
        axes.axhline(height, color=INK, linewidth=0.5, zorder=0)
    logarithmic(axes)
    low, high = curve.area_over
    axes.set_xlabel(f"nodes ({report.counted}); areas are over {low} to {high}")
    axes.set_ylabel("faithfulness, completeness: share of F(model) - F(empty)")
    made_of = f"F(model) {report.F_model:.2f}, F(circuit) {report.F_circuit:.2f}, F(empty) {report.F_empty:.2f}"
    axes.set_title(f"{report.task}: {made_of}", parse_math=False)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _draw_scores(axes: Axes, curve: Curve) -> None:
    label = f"faithfulness (area {curve.area:.3f}, of |1 - f| {curve.area_from_one:.3f})"
    axes.plot(curve.sizes, curve.faithfulness, "o-", color=_FAITHFULNESS, markersize=4, label=label)
    if curve.intervals is not None:
        low, high = np.array([pair or (np.nan, np.nan) for pair in curve.intervals]).T
        band(axes, curve.sizes, low, high, _FAITHFULNESS)
    axes.plot(
        curve.sizes,
        curve.completeness,
        "s-",
        color=_COMPLETENESS,
        markersize=4,
        label="completeness (of the complement)",
    )


def _draw_random(axes: Axes, curve: Curve) -> None:
    if not curve.draws:
        return
    draws = "one draw" if curve.draws == 1 else f"{curve.draws} draws ± s.d."
    axes.plot(curve.sizes, curve.random, "--", color=NEUTRAL, label=f"faithfulness, random ({draws})")
    if curve.draws > 1:
        mean, spread = np.array(curve.random), np.array(curve.random_sd)
        band(axes, curve.sizes, mean - spread, mean + spread, NEUTRAL)


def _draw_circuit(axes: Axes, report: Report) -> None:
    """Draw the circuit with its interval as a bar; without nodes it has no place on a logarithmic axis."""
    if not report.n_nodes:
        return
    bar: Any = None
    if report.interval is not None:
        low, high = report.interval
        bar = [[report.faithfulness - low], [high - report.faithfulness]]
    axes.errorbar(
        [report.n_nodes],
        [report.faithfulness],
        bar,
        fmt="*",
        markersize=12,
        capsize=4,
        color=_CIRCUIT,
        label="the circuit",
    )
