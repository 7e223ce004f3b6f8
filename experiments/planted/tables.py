"""The tables of docs/planted.md, from the rows of a run: what each estimator finds, and what the rules change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

from experiments.frontier.page import markdown
from experiments.frontier.tables import chosen, figure, names
from experiments.planted.measure import DIRECTIONS
from featcircuits.selection import DEFAULT_SELECTION

Row = Mapping[str, Any]
Rows = Sequence[Row]
MAIN, OTHER = "gpt_neox", "llama"
"""The shape that tables are about, and the one that is compared with it."""
NODES, EDGES = ("recall", "precision", "area"), ("edge_recall", "edge_precision", "edge_area")


def of_main(rows: Rows, **where: str) -> list[Row]:
    """The rows of the main shape with these values."""
    return chosen(rows, shape=MAIN, **where)


def plain(rows: Rows, **where: str) -> list[Row]:
    """Those of them in the order of |effect|."""
    return of_main(rows, rule=DEFAULT_SELECTION, **where)


def mean_of(rows: Iterable[Row], what: str) -> float | None:
    """The mean of a column over rows that have it."""
    values = [row[what] for row in rows if what in row]
    return mean(values) if values else None


def cell(rows: Rows, what: Sequence[str]) -> str:
    """Recall / precision / area; recall alone where the precision is 1 and the area is the recall; else a dash."""
    recall, precision, area = (figure(mean_of(rows, one)) for one in what)
    short = precision in ("1.00", "–") and area == recall
    return recall if short else f"{recall} / {precision} / {area}"


def crossed(rows: Rows, down: str, across: str, what: Sequence[str]) -> str:
    """A line for each value of one column and a column for each of another; lines without any figure are left out."""
    have = [row for row in rows if what[0] in row]
    columns = names(rows, across)
    lines = [
        [f"`{name}`", *(cell(chosen(have, **{down: name, across: column}), what) for column in columns)]
        for name in names(have, down)
    ]
    return markdown([down, *columns], lines)


def missed(rows: Rows) -> str:
    """Per estimator the motifs of which it misses nodes: under noising, under denoising, and under both the same."""
    lines = []
    for name in names(rows, "estimator"):
        by = [{row["motif"]: {*row["missed"]} for row in plain(rows, estimator=name, direction=direction)}
              for direction in DIRECTIONS]  # fmt: skip
        both = [motif for motif in by[0] if by[0][motif] & by[1][motif]]
        lines.append([f"`{name}`", *(_listed(motif for motif in one if one[motif]) for one in by), _listed(both)])
    return markdown(["estimator", *DIRECTIONS, "same node in both"], lines)


def _listed(motifs: Iterable[str]) -> str:
    return ", ".join(motifs) or "–"


def others(rows: Rows) -> str:
    """The cells in which models of the other shape differ from the main one: nodes and edges, order of |effect|."""
    lines = []
    for row in chosen(rows, shape=OTHER, rule=DEFAULT_SELECTION):
        key = {name: row[name] for name in ("motif", "direction", "estimator")}
        pairs = [[cell(one, what) for one in (plain(rows, **key), [row])] for what in (NODES, EDGES)]
        if any(main != other for main, other in pairs):
            lines.append([key["motif"], key["direction"], f"`{key['estimator']}`", *map(" → ".join, pairs)])
    return markdown(["motif", "direction", "estimator", "nodes", "edges"], lines) if lines else "None differs."


def csv(rows: Rows) -> str:
    """All rows, one a line: figures with three digits."""
    columns = ("shape", "motif", "direction", "estimator", "rule", *NODES, *EDGES)
    lines = [",".join(_plainly(row.get(column, "")) for column in columns) for row in rows]
    return "\n".join([",".join(columns), *lines]) + "\n"


def _plainly(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


def _estimators(direction: str, what: Sequence[str]) -> Callable[[Rows], str]:
    return lambda rows: crossed(plain(rows, direction=direction), "estimator", "motif", what)


def _rules(direction: str, what: Sequence[str]) -> Callable[[Rows], str]:
    return lambda rows: crossed(of_main(rows, direction=direction), "rule", "motif", what)


TABLES: Mapping[str, Callable[[Rows], str]] = {
    "missed": missed,
    **{f"nodes-{direction}": _estimators(direction, NODES) for direction in DIRECTIONS},
    **{f"edges-{direction}": _estimators(direction, EDGES) for direction in DIRECTIONS},
    **{f"rules-{direction}": _rules(direction, NODES) for direction in DIRECTIONS},
    "rules": lambda rows: crossed(of_main(rows), "estimator", "rule", NODES),
    "rule-edges": lambda rows: crossed(of_main(rows), "estimator", "rule", EDGES),
    "shapes": others,
}
"""Name of a mark in the page -> the table."""
