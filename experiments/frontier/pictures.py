"""Pictures of the page: accuracy over passes, areas of circuits, and what more pairs bring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from experiments.frontier.tables import (
    ABLATIONS,
    STORIES,
    SUITE,
    WHATS,
    Results,
    chosen,
    cost,
    known,
    names,
    pooled,
    scored,
)
from featcircuits.agreement.plot import marker_of
from featcircuits.evaluation.intervals import interval
from featcircuits.files.pictures import save

_COLOURS = {"mean": "tab:blue", "paired": "tab:orange"}


def draw(found: Results, folder: Path) -> None:
    """The pictures that there are figures for."""
    folder.mkdir(parents=True, exist_ok=True)
    if found.get("scores"):
        save(accuracy(found), folder / "accuracy.png")
    if found.get("circuits"):
        save(areas(found), folder / "areas.png")
    if found.get("overlap") and found.get("spread"):
        save(pairs(found), folder / "pairs.png")


def _figure(width: float, height: float, rows: int, columns: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def accuracy(found: Results) -> Any:
    """Pearson over passes, median and worst of behaviours and kinds of site; a row a model, a column a kind of node."""
    models = [model for model in (SUITE, STORIES) if chosen(found["costs"], model=model)]
    estimators = names(found["scores"], "estimator")
    figure, panels = _figure(15, 4.2 * len(models), len(models), len(WHATS))
    for row, model in enumerate(models):
        for axes, what in zip(panels[row], WHATS, strict=True):
            for number, estimator in enumerate(estimators):
                _median_and_worst(axes, found, (model, estimator, what), _style(number))
            axes.axhline(1, color="black", linewidth=0.5)
            axes.set_xscale("log")
            axes.set_title(f"{model}: {what}s" if what != "whole" else f"{model}: whole outputs", fontsize=10)
            axes.tick_params(labelsize=8)
    figure.supxlabel("forward and backward passes", fontsize=10)
    figure.supylabel("Pearson with exact patching (the line goes to the worst)", fontsize=10)
    for number, estimator in enumerate(estimators):
        panels[0, 0].plot([], [], label=estimator, **_style(number))
    figure.legend(*panels[0, 0].get_legend_handles_labels(), fontsize=8, loc="outside right upper")
    return figure


def _style(number: int) -> dict[str, Any]:
    return {"color": f"C{number % 10}", "linestyle": "", "markersize": 7, **marker_of(number)}


def _median_and_worst(axes: Any, found: Results, where: tuple[str, str, str], style: Mapping[str, Any]) -> None:
    model, estimator, what = where
    values = known(scored(found, model, estimator, what), "pearson")
    if values:
        forwards, backwards, _ = cost(found, model, estimator)
        passes = forwards + backwards
        axes.plot([passes, passes], [median(values), min(values)], color=style["color"], linewidth=0.8, alpha=0.5)
        axes.plot(passes, median(values), **style)


def areas(found: Results) -> Any:
    """Area of |1 - faithfulness| with its interval; a line an estimator, a panel a model and ablation."""
    models = [model for model in (SUITE, STORIES) if chosen(found["circuits"], model=model)]
    figure, panels = _figure(10, 3.6 * len(models), len(models), len(ABLATIONS))
    for row, model in enumerate(models):
        estimators = names(chosen(found["circuits"], model=model), "estimator")
        for axes, ablation in zip(panels[row], ABLATIONS, strict=True):
            for place, estimator in enumerate(estimators):
                center, parts = pooled(
                    chosen(found["circuits"], model=model, estimator=estimator, ablation=ablation), 1
                )
                between = interval(center, parts)
                half = 0.0 if between is None else between[1] - center
                axes.errorbar(center, -place, xerr=half, fmt="o", markersize=3, color=_COLOURS[ablation])
            axes.set_yticks([-place for place in range(len(estimators))], estimators, fontsize=6)
            axes.set_title(f"{model}, {ablation} ablation", fontsize=9)
            axes.tick_params(labelsize=6)
    figure.supxlabel("area of |1 - faithfulness|, smaller is better", fontsize=9)
    return figure


def pairs(found: Results) -> Any:
    """Overlap of the top 100, and deviation of faithfulness, over the number of pairs: mean and worst behaviour."""
    figure, panels = _figure(11.5, 3.6, 1, 2)
    overlap, spread = chosen(found["overlap"], model=SUITE), chosen(found["spread"], model=SUITE)
    for number, estimator in enumerate(names(overlap, "estimator")):
        _line(panels[0, 0], chosen(overlap, estimator=estimator), "overlap", min, f"C{number}", estimator)
    for ablation in names(spread, "ablation"):
        _line(panels[0, 1], chosen(spread, ablation=ablation), "deviation", max, _COLOURS[ablation], ablation)
    titles = ("share of the top 100 that 200 other pairs have too", "standard deviation of faithfulness over sets")
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    figure.supxlabel("pairs (lines: mean over behaviours; dotted: worst behaviour)", fontsize=9)
    return figure


def _line(axes: Any, rows: Sequence[Any], key: str, worst: Any, colour: str, label: str) -> None:
    counts = names(rows, "pairs")
    for combine, style, name in ((mean, "o-", label), (worst, ":", None)):
        values = [combine(known(chosen(rows, pairs=count), key)) for count in counts]
        axes.plot(counts, values, style, markersize=3, color=colour, label=name)
    axes.set_xscale("log")
    axes.set_xticks(counts, list(map(str, counts)))
    axes.minorticks_off()
