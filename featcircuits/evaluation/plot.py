"""The faithfulness curve as a picture."""

from __future__ import annotations

from pathlib import Path

from featcircuits.errors import InputError
from featcircuits.evaluation.report import Report
from featcircuits.pictures import save


def plot_curve(report: Report, path: Path) -> None:
    """Faithfulness and completeness over size, beside random circuits; PNG, PDF or SVG by the suffix of `path`."""
    from matplotlib.figure import Figure

    if report.curve is None:
        raise InputError("the report has no curve to plot; evaluate with sizes")
    curve = report.curve
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    random, spread = curve.random, curve.random_sd
    axes.plot(curve.sizes, curve.faithfulness, "o-", color="tab:blue", label="faithfulness, first nodes")
    axes.plot(curve.sizes, curve.completeness, "s-", color="tab:orange", label="completeness (complement)")
    axes.plot(curve.sizes, random, "--", color="grey", label=f"faithfulness, random ({curve.draws} draws)")
    low, high = zip(*((r - s, r + s) for r, s in zip(random, spread, strict=True)), strict=True)
    axes.fill_between(curve.sizes, low, high, color="grey", alpha=0.25, linewidth=0)
    axes.plot(report.n_nodes, report.faithfulness, "*", markersize=14, color="tab:green", label="the circuit")
    axes.axhline(report.cap, color="tab:purple", linewidth=0.8, linestyle=":", label="all features, no errors")
    for height in (0, 1):
        axes.axhline(height, color="black", linewidth=0.6)
    axes.set_xscale("log")
    axes.set_xlabel("nodes kept (features and errors)")
    axes.set_ylabel("share of F(model) - F(empty)")
    made_of = f"F(model) {report.F_model:.2f}, F(circuit) {report.F_circuit:.2f}, F(empty) {report.F_empty:.2f}"
    axes.set_title(f"{report.task}: {made_of}", fontsize=10)
    axes.legend(fontsize=8)
    save(figure, path)
