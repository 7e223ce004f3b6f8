"""Tables for readers: strongest nodes and edges, and the results of evaluations and other commands."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from featcircuits.agreement import Agreement
from featcircuits.agreement.agree import name_of
from featcircuits.agreement.scores import TOO_ALIKE, Comparison
from featcircuits.checks.audit import Residual
from featcircuits.circuit.circuit import Circuit
from featcircuits.circuit.graph import stable_nodes
from featcircuits.circuit.influence import influence_in
from featcircuits.cli.output import printable
from featcircuits.evaluation.report import Curve, Report
from featcircuits.evaluation.rows import between, report_rows
from featcircuits.health import Health
from featcircuits.tracing.stability import Stability
from featcircuits.tracing.trace import Counts

_STABLE = 0.9
"""The share of resamples from which a stable node or edge is chosen."""


def node_table(circuit: Circuit, count: int = 15, labels: Mapping[str, str] | None = None) -> Table:
    """The strongest nodes with signs; `labels` of features ("resid_2/303" -> text), if they are known."""
    table = Table(title=f"Strongest {min(count, circuit.n_nodes)} of {circuit.n_nodes} nodes", title_justify="left")
    table.add_column("node", no_wrap=True)
    table.add_column("effect", justify="right", no_wrap=True)
    table.add_column("± s.e.", justify="right", no_wrap=True)
    flow = influence_in(circuit) if _pruned_by_influence(circuit) else None
    shares = stable_nodes(circuit.manifest)
    if flow:
        table.add_column("influence", justify="right", no_wrap=True)
    if shares:
        table.add_column("stable", justify="right", no_wrap=True)
    table.add_column("kind" if labels is None else "what it is")
    ranked = sorted(circuit.nodes.items(), key=lambda item: -abs(item[1].effect))
    for node, score in ranked[:count]:
        spread = "" if math.isnan(score.standard_error) else f"{score.standard_error:.4f}"
        what = "error" if node.is_error else (labels or {}).get(f"{node.site}/{node.feature}", "feature")
        influence = [f"{flow.nodes.get(node, 0):.3f}"] if flow else []
        stable = [f"{shares[str(node)]:.0%}" if str(node) in shares else ""] if shares else []
        table.add_row(str(node), _signed(score.effect), spread, *influence, *stable, _on_one_line(what))
    return table


def _pruned_by_influence(circuit: Circuit) -> bool:
    """Whether the circuit's rules go by influence; else the column's room is better spent on labels."""
    settings = circuit.manifest.get("settings")
    found = settings if isinstance(settings, Mapping) else {}
    return any(str(found.get(name, "")).startswith("influence") for name in ("keep_nodes", "keep_edges"))


def graph_line(circuit: Circuit) -> str | None:
    """The scores of the graph among all nodes that were chosen before pruning by influence, if a trace had edges."""
    graph = circuit.manifest.get("graph")
    if not isinstance(graph, Mapping):
        return None
    told = "; ".join(f"{name} {_number(graph.get(name), '.3f')}" for name in ("replacement", "completeness"))
    return f"graph of {graph['nodes']} nodes and {graph['edges']} edges: {told} (by influence, before edges are pruned)"


def stability_line(found: Stability) -> str:
    """How many nodes and edges are chosen from nearly all resampled prompts, and how far two halves agree."""
    parts = [("nodes", found.nodes, found.halves.nodes), ("edges", found.edges, found.halves.edges)]
    told = [
        f"{sum(share >= _STABLE for share in shares.values())} of {len(shares)} {what} are chosen from at least "
        f"{_STABLE:.0%} of {found.resamples} resamples of the prompts (two halves of them agree on {_share(overlap)})"
        for what, shares, overlap in parts
        if shares
    ]
    for what in ("nodes", "edges"):
        found_in = {name: share for name, pair in found.cases.items() if (share := getattr(pair, what)) is not None}
        if found_in:
            worst = min(found_in, key=found_in.__getitem__)
            told.append(
                f"the prompts of each of {len(found_in)} templates and all others agree on {_share(found_in[worst])} "
                f"of {what} or more ({worst!r})"
            )
    return "stability: " + "; ".join(told)


def _share(value: float | None) -> str:
    return "nothing" if value is None or math.isnan(value) else f"{value:.0%}"


def _on_one_line(label: str) -> Text:
    """Text on one line, cut at the terminal's edge."""
    return Text(printable(label), no_wrap=True, overflow="ellipsis")


def count_lines(counts: Counts) -> list[str]:
    """Lines with how many nodes and edges were chosen, dropped and kept; no line for edges if there are none."""
    return [
        f"{what}: {row['chosen']} of {row['all']} chosen, {row['dropped']} dropped (no path to the metric), "
        f"{row['kept']} kept"
        for what, row in counts.record.items()
        if row["all"]
    ]


def edge_table(circuit: Circuit, count: int = 15) -> Table:
    """The strongest edges with signs."""
    table = Table(title=f"Strongest {min(count, circuit.n_edges)} of {circuit.n_edges} edges", title_justify="left")
    for name in ("from", "to", "effect"):
        table.add_column(name, justify="right" if name == "effect" else "left")
    ranked = sorted(circuit.edges.items(), key=lambda item: -abs(item[1]))
    for (source, target), weight in ranked[:count]:
        table.add_row(str(source), str(target), _signed(weight))
    return table


def _signed(value: float) -> Text:
    return Text(f"{value:+.4f}", style="blue" if value > 0 else "red")


def report_table(report: Report) -> Table:
    """Faithfulness and completeness with the metrics that they are computed from."""
    given = f", layers below {report.start_layer} not ablated" if report.start_layer else ""
    where = "" if report.ablation_places is None else f" by {report.ablation_places}"
    how = f"{report.ablation} ablation{where}, error nodes: {report.error_nodes}{given}"
    table = Table(title=f"{report.task}: {how}, {report.n_examples} examples", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in report_rows(report).items():
        table.add_row(name, value)
    return table


def curve_table(curve: Curve, counted: str = "features and errors") -> Table:
    """Scores by circuit size, with random circuits; `counted`: as in a report."""
    random = f", random {curve.area_random:.3f}" if curve.draws else ""
    low, high = curve.area_over
    title = (
        f"By size ({counted})\nareas over {low} to {high} nodes:\n"
        f"area {curve.area:.3f}{between(curve.area_interval)}{random}\n"
        f"area of |1 - f| {curve.area_from_one:.3f}{between(curve.area_from_one_interval)}"
    )
    table = Table(title=title, title_justify="left")
    columns = {"nodes": [str(size) for size in curve.sizes], **_curve_columns(curve)}
    for name in columns:
        table.add_column(name, justify="right")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table


def _curve_columns(curve: Curve) -> dict[str, list[str]]:
    columns = {"faithfulness": [f"{value:.3f}" for value in curve.faithfulness]}
    if curve.intervals is not None:
        columns["95 %"] = ["-" if pair is None else f"{pair[0]:.3f} to {pair[1]:.3f}" for pair in curve.intervals]
    columns["completeness"] = [f"{value:.3f}" for value in curve.completeness]
    if curve.draws == 1:
        columns["random (one draw, no spread)"] = [f"{value:.3f}" for value in curve.random]
    elif curve.draws:
        spread = zip(curve.random, curve.random_sd, strict=True)
        columns[f"random ± s.d. ({curve.draws} draws)"] = [f"{value:.3f} ± {sd:.3f}" for value, sd in spread]
    return columns


def agreement_tables(agreement: Agreement) -> Iterator[Table]:
    """One table per basis and kind of node, with a row per estimator and a column per kind of site."""
    sections: dict[tuple[str, str], dict[str, dict[str, Comparison]]] = {}
    for score in agreement.scores:
        section = sections.setdefault((score.basis, score.what), {})
        section.setdefault(score.estimator, {})[score.site_kind] = score.comparison
    for (basis, what), estimators in sorted(sections.items()):
        title = f"{name_of(basis, what)} against exact patching, over those that move: Pearson, slope, rank, overlap"
        table = Table(title=title, title_justify="left", box=box.SIMPLE)
        table.add_column("estimator", overflow="fold")
        kinds = {kind: found for row in estimators.values() for kind, found in row.items()}
        for kind, found in kinds.items():
            table.add_column(f"{kind}\n{found.n_moving} of {found.n}", min_width=9)
        for estimator, row in estimators.items():
            table.add_row(estimator, *(_compared(row.get(kind)) for kind in kinds))
        yield table


def _compared(found: Comparison | None) -> Text | str:
    if found is None:
        return "-"
    if found.too_alike:
        return Text(TOO_ALIKE, style="dim")
    return " ".join(map(_short, (found.pearson, found.slope, found.spearman, found.overlap)))


def _short(value: float) -> str:
    """A figure as .98 instead of 0.98, since one cell has four of them."""
    text = "-" if math.isnan(value) else f"{value:.2f}".replace("0.", ".", 1 if abs(value) < 1 else 0)
    return f"{text:>4}"


def cost_table(agreement: Agreement) -> Table:
    """A table of costs, with passes in units of one run of all prompts through the whole model."""
    table = Table(title="Cost", title_justify="left")
    table.add_column("basis")
    table.add_column("estimator")
    for name in ("forwards", "backwards", "seconds", "CPU s", "peak MB"):
        table.add_column(name, justify="right")
    for (basis, estimator), cost in agreement.costs.items():
        memory = "-" if math.isnan(cost.megabytes) else f"{cost.megabytes:.0f}"
        numbers = (cost.forwards, cost.backwards, cost.seconds, cost.cpu_seconds)
        table.add_row(basis, estimator, *(f"{number:.2f}" for number in numbers), memory)
    return table


def audit_table(residuals: Iterable[Residual]) -> Table:
    """A table of identities and how far they are from holding."""
    table = Table(title="Identities that must hold (residual as a share)", title_justify="left")
    table.add_column("law")
    table.add_column("where")
    table.add_column("residual", justify="right")
    table.add_column("but for")
    for row in residuals:
        table.add_row(
            row.law, row.where, f"{row.residual:.1e}", "rounding" if row.exact else "the estimator's own error"
        )
    return table


_FIGURES = {
    "L0": ("l0", ".1f"),
    "variance unexplained": ("variance_unexplained", ".2%"),
    "loss recovered (zero)": ("loss_recovered", ".2%"),
    "loss recovered (mean)": ("loss_recovered_mean", ".2%"),
    "dead": ("dead_features", ".0f"),
    "sinks": ("sink_tokens", ".0f"),
}
"""Title -> name in a record and format, in the words of docs/training.md."""


def health_table(health: Health) -> Table:
    """One row per site, with recorded figures below the measured ones, and then one row for all sites at once."""
    record = health.to_json()
    title = f"Health on {health.text}{', sink tokens kept' if health.keep_sinks else ''}; in brackets as recorded"
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    _figure_columns(table)
    for site, row in record["sites"].items():
        cells = _figure_cells(row)
        if row["recorded"]:
            cells = [f"{cell}\n({old})" for cell, old in zip(cells, _figure_cells(row["recorded"]), strict=True)]
        table.add_row(site, *cells)
    table.add_section()
    table.add_row("all at once", *_figure_cells(record["together"]))
    return table


def fit_table(health: Health) -> Table:
    """One row per site: the variance that its dictionary leaves there, and at the other site that it explains best."""
    title = "Variance unexplained on a sample: does each dictionary belong at its site?"
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    table.add_column("site", no_wrap=True)
    table.add_column("at its own site", justify="right")
    table.add_column("best elsewhere", justify="right")
    table.add_column("at")
    table.add_column("")
    for site, row in health.to_json()["sites"].items():
        here, there = (_number(row[f"variance_unexplained_{place}"], ".2%") for place in ("here", "there"))
        table.add_row(site, here, there, row["best_other_site"] or "", Text(row["fault"] or "", "red"))
    return table


def trained_table(suite: Mapping[str, Any]) -> Table:
    """A table of the figures in a suite's record."""
    table = Table(title=f"{suite['name']}: on held-out text", title_justify="left", box=box.SIMPLE)
    _figure_columns(table)
    for site, row in suite["sites"].items():
        table.add_row(site, *_figure_cells(row))
    return table


def _figure_columns(table: Table) -> None:
    table.add_column("site", no_wrap=True)
    for name in _FIGURES:
        table.add_column(name, justify="right", min_width=max(map(len, name.split())))


def _figure_cells(row: Mapping[str, Any]) -> list[str]:
    *cells, dead, sinks = [_number(row.get(key), style) for key, style in _FIGURES.values()]
    return [*cells, f"{dead}/{row['n_features']}" if "n_features" in row else dead, sinks]


def _number(value: float | None, style: str) -> str:
    return "-" if value is None else format(value, style)
