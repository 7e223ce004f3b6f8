"""The tables of docs/real-model.md, from the pieces in the results' folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from experiments.frontier.page import fill, markdown
from experiments.frontier.tables import figure
from experiments.real_model.accuracy import BANDS
from experiments.real_model.pairs import BEHAVIOURS

Row = Mapping[str, Any]
Pieces = Mapping[str, Any]
Table = tuple[list[str], list[list[str]]]
KINDS = ("resid", "attn", "mlp")


def write_page(folder: Path, page: Path) -> None:
    """Put every table that there are figures for between its marks in the page, and all into `folder`/tables.md."""
    pieces = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    made = {name: make(pieces) for name, make in TABLES.items()}
    tables = {name: markdown(header, lines) for name, (header, lines) in made.items() if lines}
    (folder / "tables.md").write_text("\n\n".join(tables.values()) + "\n", encoding="utf-8")
    if page.exists():
        page.write_text(fill(page.read_text(encoding="utf-8"), tables, TABLES), encoding="utf-8")


def _scores(pieces: Pieces, basis: str) -> dict[str, dict[tuple[str, str, str], Row]]:
    """estimator -> (behaviour, kind, band) -> its row."""
    found: dict[str, dict[tuple[str, str, str], Row]] = {}
    for behaviour in BEHAVIOURS:
        for row in pieces.get(f"{basis}-{behaviour}", {}).get("scores", ()):
            found.setdefault(row["estimator"], {})[behaviour, row["kind"], row["band"]] = row
    return found


def _cell(row: Row | None) -> str:
    """Pearson, and the slope in brackets."""
    return "–" if row is None or row["pearson"] is None else f"{figure(row['pearson'])} ({figure(row['slope'])})"


def by_behaviour(kind: str, basis: str = "whole") -> Callable[[Pieces], Table]:
    """A line per estimator, a column per behaviour."""

    def make(pieces: Pieces) -> Table:
        lines = [
            [f"`{estimator}`", *(_cell(rows.get((behaviour, kind, "all"))) for behaviour in BEHAVIOURS)]
            for estimator, rows in _scores(pieces, basis).items()
        ]
        return ["estimator", *BEHAVIOURS], lines

    return make


def _middle(rows: Iterable[Row], key: str) -> float | None:
    known = [row[key] for row in rows if row[key] is not None]
    return median(known) if known else None


def by_depth(pieces: Pieces) -> Table:
    """Median Pearson over behaviours, by kind of site and third of the layers, and without the largest cell."""
    header = ["estimator", *(f"{kind}, {band}" for kind in KINDS for band in BANDS[:3]), "mlp, all but the largest"]
    lines = []
    for estimator, rows in _scores(pieces, "whole").items():

        def middle(kind: str, band: str, key: str = "pearson", rows: Mapping[Any, Row] = rows) -> str:
            return figure(_middle((row for (_, *at), row in rows.items() if at == [kind, band]), key))

        cells = [middle(kind, band) for kind in KINDS for band in BANDS[:3]]
        lines.append([f"`{estimator}`", *cells, middle("mlp", "all", "pearson_rest")])
    return header, lines


def single(basis: str) -> Callable[[Pieces], Table]:
    """Median Pearson (slope) over behaviours of single nodes, by kind of site, and the CPU seconds of a pair."""

    def make(pieces: Pieces) -> Table:
        lines = []
        for estimator, rows in _scores(pieces, basis).items():
            cells = []
            for kind in KINDS:
                own = [row for (_, *at), row in rows.items() if at == [kind, "all"]]
                pearson, slope = _middle(own, "pearson"), _middle(own, "slope")
                cells.append("–" if pearson is None else f"{figure(pearson)} ({figure(slope)})")
            lines.append([f"`{estimator}`", *cells])
        return ["estimator", *KINDS], lines

    return make


def cost(pieces: Pieces) -> Table:
    """Median passes and CPU seconds over behaviours of whole outputs at 91 sites."""
    found: dict[str, list[Row]] = {}
    for behaviour in BEHAVIOURS:
        for row in pieces.get(f"whole-{behaviour}", {}).get("costs", ()):
            found.setdefault(row["estimator"], []).append(row)
    lines = [
        [f"`{name}`", f"{median(r['forwards'] for r in rows):.0f} + {median(r['backwards'] for r in rows):.0f}",
         f"{median(r['cpu'] for r in rows):.1f}"]
        for name, rows in found.items()
    ]  # fmt: skip
    return ["estimator", "passes", "CPU seconds"], lines


def health(pieces: Pieces) -> Table:
    """A line per site."""
    columns = {
        "n_features": "features", "l0": "L0", "variance_unexplained": "variance unexplained",
        "loss_recovered": "loss recovered (zero)", "loss_recovered_mean": "loss recovered (mean)",
        "sink_tokens_training": "sinks left out",
    }  # fmt: skip
    rows = pieces.get("dictionaries", [])[1:]
    known = {key: name for key, name in columns.items() if any(key in row for row in rows)}
    lines = [[f"`{row['site']}`", *(_number(row.get(key)) for key in known)] for row in rows]
    return ["site", *known.values()], lines


def _number(value: float | None) -> str:
    return f"{value:,}" if isinstance(value, int) else figure(value, 3)


def circuits(pieces: Pieces) -> Table:
    """A line per behaviour, ablation and treatment of errors."""
    header = [
        "behaviour", "nodes (errors), edges", "ablation", "errors", "faithfulness", "cap", "completeness",
        "mean distance from 1", "random",
    ]  # fmt: skip
    lines = []
    for behaviour in BEHAVIOURS:
        found = pieces.get(f"circuits-{behaviour}", {"evaluations": ()})
        for row in found["evaluations"]:
            curve, interval = row["curve"], row["interval"]
            between = f" [{figure(interval[0])}, {figure(interval[1])}]" if interval else ""
            lines.append(
                [behaviour, f"{found['nodes']} ({found['errors']}), {found['edges']}", row["ablation"],
                 row["error_nodes"], f"{figure(row['faithfulness'])}{between}", figure(row["features_alone"]),
                 figure(row["completeness"]), figure(curve["area_from_one"]), figure(curve["random"][-1])]
            )  # fmt: skip
    return header, lines


def shares(pieces: Pieces) -> Table:
    """The share of |effect| that errors carry, by kind of site."""
    lines = []
    for behaviour in BEHAVIOURS:
        found = pieces.get(f"circuits-{behaviour}")
        if found:
            lines.append([behaviour, *(figure(found["error_share"].get(kind)) for kind in KINDS)])
    return ["behaviour", *KINDS], lines


def spliced_places(part: str) -> Callable[[Pieces], Table]:
    """Nodes for a faithfulness of .5 and .8 by the sites that are spliced."""

    def make(pieces: Pieces) -> Table:
        header = [
            "behaviour",
            "sites",
            "number",
            "nodes for .5",
            "nodes for .8",
            "at most",
            "cap",
            "CPU seconds",
        ]
        lines = []
        for behaviour in BEHAVIOURS:
            for row in pieces.get(f"{part}-{behaviour}", ()):
                reached = [str(row[f"nodes_{bound}"] or "–") for bound in (0.5, 0.8)]
                lines.append(
                    [behaviour, row["sites"], str(row["n_sites"]), *reached, str(row["sizes"][-1]),
                     figure(row["cap"]), f"{row['cpu']:.1f}"]
                )  # fmt: skip
        return header, lines

    return make


TABLES: Mapping[str, Callable[[Pieces], Table]] = {
    **{f"whole-{kind}": by_behaviour(kind) for kind in KINDS},
    "depth": by_depth,
    "cost": cost,
    "neurons": single("neurons"),
    "features": single("features"),
    "health": health,
    "circuits": circuits,
    "shares": shares,
    "places": spliced_places("places"),
    "trained": spliced_places("trained"),
}
