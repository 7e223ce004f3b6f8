"""Pictures of an agreement: estimates over truth, and accuracy over cost."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from featcircuits.agreement.agree import Agreement

_COLOURS = {"embed": "tab:green", "attn": "tab:orange", "mlp": "tab:blue", "resid": "tab:red", "metric": "tab:purple"}
_MARKERS = "os^Dv<>pPX*hd"


def plot_scatter(agreement: Agreement, path: Path, most: int = 2000) -> None:
    """A panel for each method, basis and kind of node; a PNG at `path`. At most `most` points a panel and site kind."""
    from matplotlib.figure import Figure

    columns = list(dict.fromkeys((score.basis, score.what) for score in agreement.scores))
    methods = list(dict.fromkeys(score.method for score in agreement.scores))
    figure = Figure(figsize=(3 * len(columns), 2.7 * len(methods)), layout="constrained")
    panels = np.array(figure.subplots(len(methods), len(columns), squeeze=False))
    for row, method in enumerate(methods):
        for column, (basis, what) in enumerate(columns):
            axes = panels[row, column]
            for kind, colour in _COLOURS.items():
                if (method, basis, what, kind) not in agreement.values:
                    continue
                estimate, truth = agreement.values[method, basis, what, kind]
                shown = np.argsort(-np.abs(truth), kind="stable")[:most]
                axes.plot(truth[shown], estimate[shown], ".", color=colour, markersize=3, label=kind, alpha=0.6)
            low, high = axes.get_xlim()
            axes.plot([low, high], [low, high], color="black", linewidth=0.5)
            axes.set_title(f"{method}: {basis}, {what}", fontsize=8)
            axes.tick_params(labelsize=6)
    panels[0, 0].legend(fontsize=6)
    figure.supxlabel("exact patching", fontsize=9)
    figure.supylabel("estimate", fontsize=9)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def plot_frontier(agreement: Agreement, path: Path) -> None:
    """Pearson correlation over passes (forwards and backwards), a panel a basis and kind of node; a PNG at `path`."""
    from matplotlib.figure import Figure

    columns = list(dict.fromkeys((score.basis, score.what) for score in agreement.scores))
    methods = list(dict.fromkeys(score.method for score in agreement.scores))
    figure = Figure(figsize=(4.2 * len(columns), 4.2), layout="constrained")
    panels = np.array(figure.subplots(1, len(columns), squeeze=False))[0]
    for axes, (basis, what) in zip(panels, columns, strict=True):
        for score in agreement.scores:
            if (score.basis, score.what) != (basis, what) or math.isnan(score.comparison.pearson):
                continue
            cost = agreement.costs[basis, score.method]
            axes.plot(
                cost.forwards + cost.backwards,
                score.comparison.pearson,
                _MARKERS[methods.index(score.method) % len(_MARKERS)],
                color=_COLOURS[score.site_kind],
                alpha=0.8,
            )
        exact = agreement.costs[basis, "exact"]
        axes.axvline(exact.forwards, color="black", linewidth=0.8, linestyle=":")
        axes.set_xscale("log")
        axes.set_title(f"{basis}, {what}", fontsize=9)
        axes.set_xlabel("passes through the model (dotted: exact patching)", fontsize=8)
        axes.axhline(1, color="black", linewidth=0.5)
    panels[0].set_ylabel("Pearson with exact patching")
    _legend(panels[-1], methods)
    figure.savefig(path, dpi=130, metadata={"Software": None})


def _legend(axes: object, methods: list[str]) -> None:
    from matplotlib.lines import Line2D

    shapes = [
        Line2D([], [], linestyle="", marker=_MARKERS[i % len(_MARKERS)], color="grey", label=method)
        for i, method in enumerate(methods)
    ]
    kinds = [Line2D([], [], linestyle="", marker="o", color=colour, label=kind) for kind, colour in _COLOURS.items()]
    axes.legend(handles=[*shapes, *kinds], fontsize=6, loc="lower right")  # type: ignore[attr-defined]
