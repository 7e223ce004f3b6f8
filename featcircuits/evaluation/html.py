"""A report as HTML for notebooks: its figures, its notes and its curve."""

from __future__ import annotations

import base64

from featcircuits.evaluation.plot import draw_curve
from featcircuits.evaluation.report import Report
from featcircuits.files.html import html_block, html_lines, html_table
from featcircuits.files.pictures import encoded


def report_html(report: Report) -> str:
    """Meaningless ratios are left out, and the reason stands in their place."""
    title = f"{report.task}: {report.ablation} ablation, {report.n_examples} examples"
    parts = [html_table(_rows(report), numbers=[1]), html_lines(report.notes)]
    if report.curve is not None and not report.invalid:
        picture = base64.b64encode(encoded(draw_curve(report), "svg")).decode()
        parts.append(f"<img alt='faithfulness over circuit sizes' src='data:image/svg+xml;base64,{picture}'>")
    return html_block(title, *parts)


def _rows(report: Report) -> list[tuple[str, str]]:
    if report.invalid:
        ratios = [("invalid", report.invalid)]
    else:
        between = "" if report.interval is None else " ({:.3f} to {:.3f})".format(*report.interval)
        ratios = [
            ("faithfulness", f"{report.faithfulness:.3f}{between}"),
            ("completeness (of the complement)", f"{report.completeness:.3f}"),
            ("faithfulness of all features, errors ablated", f"{report.features_alone:.3f}"),
        ]
    metrics = [(name.replace("_", "(") + ")", getattr(report, name)) for name in _METRICS]
    return [
        *ratios,
        *((name, f"{value:.3f}") for name, value in metrics),
        (f"nodes in scope ({report.counted})", str(report.n_nodes)),
        ("error nodes / edges in scope", f"{report.n_error_nodes} / {report.n_edges}"),
    ]


_METRICS = ("F_model", "F_circuit", "F_empty", "F_complement")
