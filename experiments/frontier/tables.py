"""The tables of the page, from the rows that were measured: each gives a header and lines of cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from statistics import mean, median
from typing import Any

from experiments.frontier.models import PLAIN
from featcircuits.agreement.scores import TOO_ALIKE
from featcircuits.evaluation.intervals import interval

Row = Mapping[str, Any]
Results = Mapping[str, Sequence[Row]]
Table = tuple[list[str], list[list[str]]]
WHATS = ("feature", "error", "whole", "edge")
KINDS = ("embed", "attn", "mlp", "resid", "metric")
ABLATIONS = ("mean", "paired")
VERDICTS = ("better", "same", "worse")
SUITE, STORIES = "grammar-4l", "stories260K"


def chosen(rows: Iterable[Row], **where: Any) -> list[Row]:
    """Rows that have these values."""
    return [row for row in rows if all(row[key] == value for key, value in where.items())]


def names(rows: Iterable[Row], key: str) -> list[str]:
    """The values of a column, in order of appearance."""
    return list(dict.fromkeys(row[key] for row in rows))


def figure(value: float | None, digits: int = 2, sign: bool = False) -> str:
    """.98; a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    return text.replace("0.", ".", 1) if text.lstrip("+-").startswith("0.") else text


def known(rows: Iterable[Row], key: str) -> list[float]:
    """A column's figures, without those that are not there."""
    return [row[key] for row in rows if row[key] is not None]


# --- accuracy


def scored(found: Results, model: str, estimator: str, what: str) -> list[Row]:
    """Scores of an estimator on one kind of node (or edges) of a model, all behaviours and kinds of site."""
    return chosen(found.get("scores", ()), model=model, estimator=estimator, what=what)


def cost(found: Results, model: str, estimator: str) -> tuple[float, float, float]:
    """Forwards, backwards and CPU seconds in the basis of features, medians over behaviours."""
    rows = chosen(found["costs"], model=model, estimator=estimator, basis="features")
    forwards, backwards, seconds = (median(known(rows, key)) for key in ("forwards", "backwards", "cpu_seconds"))
    return forwards, backwards, seconds


def summary(found: Results, model: str) -> Table:
    """A line per estimator: its cost, and Pearson over all behaviours and kinds of site (median, worst)."""
    header = [
        "estimator",
        "passes",
        "CPU seconds",
        *(f"{what}s" if what != "whole" else "whole outputs" for what in WHATS),
    ]
    lines = []
    for estimator in names(chosen(found.get("costs", ()), model=model), "estimator"):
        forwards, backwards, seconds = cost(found, model, estimator)
        cells = [f"{forwards:.0f} + {backwards:.0f}", figure(seconds)]
        cells += [_middle_and_worst(known(scored(found, model, estimator, what), "pearson")) for what in WHATS]
        lines.append([f"`{estimator}`", *cells])
    return header, lines


def by_site(found: Results, what: str, model: str) -> Table:
    """A line per estimator, a column per kind of site: Pearson / slope / Spearman, median and worst behaviour."""
    rows = chosen(found.get("scores", ()), model=model, what=what)
    kinds = [kind for kind in KINDS if chosen(rows, sites=kind)]
    lines = [
        [f"`{estimator}`", *(_compared(chosen(rows, estimator=estimator, sites=kind)) for kind in kinds)]
        for estimator in names(rows, "estimator")
    ]
    return ["estimator", *kinds], lines


def _compared(rows: Sequence[Row]) -> str:
    """A slope may be wrong on either side of 1, so of slopes there is the median alone."""
    if rows and all(row["too_alike"] for row in rows):
        return TOO_ALIKE
    slopes = known(rows, "slope")
    slope = figure(median(slopes) if slopes else None)
    return f"{_middle_and_worst(known(rows, 'pearson'))} / {slope} / {_middle_and_worst(known(rows, 'spearman'))}"


def _middle_and_worst(values: Sequence[float]) -> str:
    if len(values) < 2:
        return figure(values[0] if values else None)
    return f"{figure(median(values))} {figure(min(values))}"


def counts(found: Results) -> Table:
    """A line per model and kind of node, a column per kind of site: how many nodes move, of how many."""
    lines = []
    for model in names(found.get("scores", ()), "model"):
        for what in WHATS:
            rows = scored(found, model, PLAIN, what)
            cells = [_moving(chosen(rows, sites=kind)) for kind in KINDS]
            lines.append([model, f"{what}s" if what != "whole" else "whole outputs", *cells])
    return ["model", "nodes", *KINDS], lines


def _moving(rows: Sequence[Row]) -> str:
    return f"{sum(row['n_moving'] for row in rows)} of {sum(row['n'] for row in rows)}" if rows else "–"


# --- circuits


def pooled(rows: Sequence[Row], number: int) -> tuple[float, list[float]]:
    """Mean over behaviours of an area (0: of faithfulness, 1: of |1 - faithfulness|), and the same of each part."""
    center = mean(row[("area", "area_from_one")[number]] for row in rows)
    if any(len(row["folds"]) != len(rows[0]["folds"]) for row in rows):
        return center, []
    return center, [mean(part) for part in zip(*([fold[number] for fold in row["folds"]] for row in rows), strict=True)]


def difference(own: Sequence[Row], plain: Sequence[Row]) -> tuple[float, tuple[float, float] | None]:
    """Of two estimators' pooled areas of |1 - faithfulness|, with the interval of the paired difference."""
    (center, parts), (other, others) = pooled(own, 1), pooled(plain, 1)
    return center - other, interval(center - other, [a - b for a, b in zip(parts, others, strict=True)])


def areas(found: Results, model: str, key: str) -> Table:
    """A line per estimator: both areas and the difference from the plain estimator's, under both ablations."""
    rows = chosen(found.get(key, ()), model=model)
    header, lines = ["estimator"], []
    for ablation in ABLATIONS:
        header += [f"{ablation}: area", "\\|1 − f\\|", f"minus `{PLAIN}`'s", "b s w"]
    for estimator in names(rows, "estimator"):
        cells = []
        for ablation in ABLATIONS:
            own, plain = (chosen(rows, estimator=name, ablation=ablation) for name in (estimator, PLAIN))
            counts = [str(len(chosen(own, verdict=verdict))) for verdict in VERDICTS]
            cells += [_within(*pooled(own, 0)), _within(*pooled(own, 1)), _apart(*difference(own, plain))]
            cells.append("" if estimator == PLAIN else " ".join(counts))
        lines.append([f"`{estimator}`", *cells])
    return header, lines


def _within(center: float, parts: list[float]) -> str:
    found = interval(center, parts)
    return figure(center, 3) + ("" if found is None else f" ± {figure(found[1] - center, 3)}")


def _apart(center: float, between: tuple[float, float] | None) -> str:
    if center == 0:
        return ""
    return figure(center, 3, sign=True) + ("" if between is None else f" ± {figure(between[1] - center, 3)}")


def by_behaviour(found: Results, ablation: str) -> Table:
    """Per behaviour: all features alone, and every candidate's area of |1 - faithfulness| with both draws of pairs."""
    again = chosen(found.get("again", ()), ablation=ablation)
    first = chosen(found.get("circuits", ()), ablation=ablation)
    estimators = names(again, "estimator")
    lines = []
    for model, behaviour in dict.fromkeys((row["model"], row["behaviour"]) for row in again):
        where = {"model": model, "behaviour": behaviour}
        alone = chosen(found["features_alone"], ablation=ablation, **where)[0]["faithfulness"]
        cells = [
            " ".join(
                figure(chosen(rows, estimator=estimator, **where)[0]["area_from_one"], 3) for rows in (first, again)
            )
            for estimator in estimators
        ]
        lines.append([behaviour if model == SUITE else f"{behaviour}, {model}", figure(alone, 3), *cells])
    return ["behaviour", "features alone", *(f"`{estimator}`" for estimator in estimators)], lines


# --- pairs


def overlaps(found: Results) -> Table:
    """A line per number of pairs, a column per estimator: mean over behaviours, and the worst behaviour's mean."""
    rows = chosen(found.get("overlap", ()), model=SUITE)
    lines = []
    for count in names(rows, "pairs"):
        cells = []
        for estimator in names(rows, "estimator"):
            values = known(chosen(rows, pairs=count, estimator=estimator), "overlap")
            cells.append(f"{figure(mean(values))} {figure(min(values))}")
        lines.append([str(count), *cells])
    return ["pairs", *(f"`{estimator}`" for estimator in names(rows, "estimator"))], lines


def overlaps_by_behaviour(found: Results) -> Table:
    """The plain estimator: one line per behaviour, a column per number of pairs."""
    rows = chosen(found.get("overlap", ()), estimator=PLAIN)
    return _by_count(rows, lambda row: figure(row["overlap"]))


def spreads(found: Results, ablation: str) -> Table:
    """A line per behaviour: faithfulness on the largest sets, and its deviation over sets of so many pairs."""
    rows = chosen(found.get("spread", ()), ablation=ablation)
    header, lines = _by_count(rows, lambda row: figure(row["deviation"], 3))
    for line, (model, behaviour) in zip(lines, _cases(rows), strict=True):
        line.insert(1, figure(chosen(rows, model=model, behaviour=behaviour)[-1]["mean"], 3))
    return [header[0], "faithfulness", *header[1:]], lines


def _cases(rows: Sequence[Row]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["model"], row["behaviour"]) for row in rows))


def _by_count(rows: Sequence[Row], cell: Callable[[Row], str]) -> Table:
    counts, lines = names(rows, "pairs"), []
    for model, behaviour in _cases(rows):
        own = {row["pairs"]: cell(row) for row in chosen(rows, model=model, behaviour=behaviour)}
        name = behaviour if model == SUITE else f"{behaviour}, {model}"
        lines.append([name, *(own.get(count, "–") for count in counts)])
    return ["behaviour", *(f"{count} pairs" for count in counts)], lines


TABLES: Mapping[str, Callable[[Results], Table]] = {
    "summary": partial(summary, model=SUITE),
    "summary-stories": partial(summary, model=STORIES),
    "counts": counts,
    **{f"{what}s": partial(by_site, what=what, model=SUITE) for what in WHATS},
    **{f"{what}s-stories": partial(by_site, what=what, model=STORIES) for what in WHATS},
    "areas": partial(areas, model=SUITE, key="circuits"),
    "areas-again": partial(areas, model=SUITE, key="again"),
    "areas-stories": partial(areas, model=STORIES, key="circuits"),
    **{f"behaviours-{ablation}": partial(by_behaviour, ablation=ablation) for ablation in ABLATIONS},
    "overlap": overlaps,
    "overlap-behaviours": overlaps_by_behaviour,
    **{f"spread-{ablation}": partial(spreads, ablation=ablation) for ablation in ABLATIONS},
}
