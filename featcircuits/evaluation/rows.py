"""The figures of a report in words, for tables of every kind."""

from __future__ import annotations

from featcircuits.evaluation.report import Report

WHY = "why invalid"
"""The name of the row with the reason, which only invalid reports have."""


def report_rows(report: Report) -> dict[str, str]:
    """Name -> text of each figure; ratios that mean nothing are "invalid", and the last row then says why."""

    def ratio(value: float) -> str:
        return "invalid" if report.invalid else f"{value:.3f}"

    empty = ", every error kept" if report.error_nodes == "keep" else ""
    rows = {
        "faithfulness": ratio(report.faithfulness) + ("" if report.invalid else between(report.interval)),
        "completeness (of the complement)": ratio(report.completeness),
        "F(model)": f"{report.F_model:.3f}",
        "F(circuit)": f"{report.F_circuit:.3f}",
        f"F(empty){empty}": f"{report.F_empty:.3f}",
        "faithfulness of all features, errors ablated": ratio(report.features_alone),
        f"nodes in scope ({report.counted})": str(report.n_nodes),
        "error nodes / edges in scope": f"{report.n_error_nodes} / {report.n_edges}",
    }
    if report.graph_completeness is not None:
        scores = ("-" if at is None else f"{at:.3f}" for at in (report.replacement, report.graph_completeness))
        rows["replacement / completeness of its graph, by influence"] = " / ".join(scores)
    return rows | ({WHY: report.invalid} if report.invalid else {})


def between(interval: tuple[float, float] | None) -> str:
    """An interval behind its figure; nothing without one."""
    return "" if interval is None else f" (95 %: {interval[0]:.3f} to {interval[1]:.3f})"
