"""Pictures of an agreement: estimates over exact effects, and accuracy over cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcircuits.agreement.agree import REFERENCE, Agreement, name_of
from featcircuits.agreement.scores import TOO_ALIKE
from featcircuits.files.palette import INK, NEUTRAL, PALE, SITE_KINDS
from featcircuits.files.pictures import logarithmic, save, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_SHAPES = [(shape, fill) for fill in ("full", "none", "left", "top") for shape in "os^DvP<X>*ph"]
"""The marker and filling of each estimator: 48 that can be told apart."""
_LINE = 0.17
"""Inches: the height of a line of a legend."""


@styled()
def plot_scatter(agreement: Agreement, path: Path, most: int = 2000) -> None:
    """Draw estimates over exact effects, with a panel per estimator, basis and kind of node.

    The file is PNG, PDF or SVG, by the suffix of `path`. It shows only nodes that move, and of these at most the
    `most` strongest per panel and kind of site.
    """
    columns = list(dict.fromkeys((score.basis, score.what) for score in agreement.scores))
    estimators = list(dict.fromkeys(score.estimator for score in agreement.scores))
    figure, panels = _panels(len(estimators), len(columns), 1.9, 1.7)
    for row, estimator in enumerate(estimators):
        for column, (basis, what) in enumerate(columns):
            _scatter(panels[row][column], agreement, (estimator, basis, what), most)
    for axes, (basis, what) in zip(panels[0], columns, strict=True):
        axes.set_title(name_of(basis, what))
    for axes, estimator in zip(panels[:, 0], estimators, strict=True):
        axes.annotate(
            estimator, (-0.3, 0.5), xycoords="axes fraction", rotation=90, ha="center", va="center"
        )  # fmt: skip
    figure.supxlabel("exact patching")
    figure.supylabel("estimate")
    _legend_beside(figure, _of_kinds({score.site_kind for score in agreement.scores}))
    save(figure, path)


def _scatter(axes: Axes, agreement: Agreement, where: tuple[str, str, str], most: int) -> None:
    found = {kind: agreement.values[*where, kind] for kind in SITE_KINDS if (*where, kind) in agreement.values}
    for kind, (estimate, truth) in found.items():
        shown = np.argsort(-np.abs(truth), kind="stable")[:most]
        axes.plot(
            truth[shown], estimate[shown], "o", color=SITE_KINDS[kind], markersize=3, markeredgewidth=0, alpha=0.6
        )
    if not any(len(truth) for _, truth in found.values()):
        axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center", va="center", color=NEUTRAL)
        axes.set_axis_off()
        return
    axes.axline((0, 0), slope=1, color=INK, linewidth=0.6)


@styled()
def plot_frontier(agreement: Agreement, path: Path) -> None:
    """Draw Pearson correlations over forward and backward passes, with a panel per basis and kind of node.

    The file is PNG, PDF or SVG, by the suffix of `path`.
    """
    columns = list(dict.fromkeys((score.basis, score.what) for score in agreement.scores))
    estimators = list(dict.fromkeys(score.estimator for score in agreement.scores))
    marks = len(estimators) + len(SITE_KINDS)
    figure, (panels,) = _panels(1, len(columns), 2.3, max(2.8, _LINE * marks))
    for axes, (basis, what) in zip(panels, columns, strict=True):
        for score in agreement.scores:
            if (score.basis, score.what) == (basis, what) and not math.isnan(score.comparison.pearson):
                cost = agreement.costs[basis, score.estimator]
                style = _style(estimators.index(score.estimator), SITE_KINDS[score.site_kind])
                axes.plot(cost.forwards + cost.backwards, score.comparison.pearson, **style)
        if not axes.lines:
            axes.text(0.5, 0.5, TOO_ALIKE, transform=axes.transAxes, ha="center", va="center", color=NEUTRAL)
        axes.axvline(agreement.costs[basis, str(REFERENCE)].forwards, color=INK, linewidth=0.8, linestyle=":")
        axes.axhline(1, color=INK, linewidth=0.6)
        logarithmic(axes)
        axes.set_title(name_of(basis, what))
    panels[0].set_ylabel("Pearson with exact patching (nodes that move)")
    figure.supxlabel("forward and backward passes through the model (dotted: exact patching)")
    shapes = [_mark(label, _style(number, PALE)) for number, label in enumerate(estimators)]
    _legend_beside(figure, [*shapes, *_of_kinds({score.site_kind for score in agreement.scores})])
    save(figure, path)


def _panels(rows: int, columns: int, width: float, height: float) -> tuple[Figure, Any]:
    """Panels in at least one column, so that an empty agreement gives an empty picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns + 1.2, height * rows + 0.4), layout="constrained")
    return figure, np.array(figure.subplots(rows, columns, squeeze=False))


def marker_of(number: int) -> dict[str, Any]:
    """The shape and filling of the estimator with this index."""
    marker, fill = _SHAPES[number % len(_SHAPES)]
    return {"marker": marker, "fillstyle": fill, "markerfacecoloralt": "white"}


def _style(number: int, colour: str) -> dict[str, Any]:
    return {**marker_of(number), "color": colour, "markersize": 4.5, "linestyle": "", "alpha": 0.8}


def _of_kinds(kinds: set[str]) -> list[Line2D]:
    style = {"linestyle": "", "marker": "o", "markeredgewidth": 0}
    return [_mark(kind, {**style, "color": colour}) for kind, colour in SITE_KINDS.items() if kind in kinds]


def _mark(label: str, style: dict[str, Any]) -> Line2D:
    from matplotlib.lines import Line2D

    return Line2D([], [], label=label, **style)


def _legend_beside(figure: Figure, marks: Sequence[Line2D]) -> None:
    """Put the legend beside the panels, where it hides no data."""
    figure.legend(handles=marks, loc="outside right upper")
