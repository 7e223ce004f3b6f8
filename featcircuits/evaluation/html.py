"""A report as HTML for notebooks: its figures, its notes and its curve."""

from __future__ import annotations

import base64

from featcircuits.evaluation.plot import draw_curve
from featcircuits.evaluation.report import Report
from featcircuits.evaluation.rows import WHY, report_rows
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
    rows = report_rows(report) | {"F(complement)": f"{report.F_complement:.3f}"}
    if not report.invalid:
        return [*rows.items()]
    reason = rows.pop(WHY)
    return [("invalid", reason), *((name, text) for name, text in rows.items() if text != "invalid")]
