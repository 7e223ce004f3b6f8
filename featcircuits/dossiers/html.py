"""A dossier as HTML for notebooks: no script, nothing loaded, every text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from itertools import islice
from typing import Any

from featcircuits.dossiers.records import Context, Dossier, Neighbour, TokenEffect
from featcircuits.files.html import html_table

_SHOWN = 10
_BLUE, _RED = "31, 119, 180", "214, 39, 40"


def dossier_html(dossier: Dossier) -> str:
    """Label, figures, contexts with their tokens shaded by activation, direct effects, related features, task."""
    parts = [
        f"<b>{escape(dossier.name)}</b> {escape(dossier.label)}",
        f"<div style='color: gray'>{escape(figures_line(dossier))}</div>",
        _histogram(dossier.histogram),
        _table({"promotes": map(_effect, dossier.promoted), "suppresses": map(_effect, dossier.suppressed)}),
        *(_context(one, dossier.max or 1.0) for one in dossier.contexts[:_SHOWN]),
        _table(
            {
                "writes like (same site)": map(_neighbour, dossier.neighbours),
                "writes like (next layer)": map(_neighbour, dossier.next_layer),
                "active with": map(_neighbour, dossier.coactive[:_SHOWN]),
            }
        ),
        _task(dossier),
    ]
    return f"<div style='font-family: sans-serif; font-size: 90%; line-height: 1.5'>{''.join(parts)}</div>"


def labels_html(text: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """Of many features: the text that was read, and the first few labels."""
    rows = html_table(islice(labels.items(), _SHOWN))
    more = f"<div>and {len(labels) - _SHOWN:,} more</div>" if len(labels) > _SHOWN else ""
    read = f"Dossiers of {len(labels):,} features on {text.get('tokens', 0):,} tokens of {text.get('name', 'a text')}"
    return f"<div><b>{escape(read)}</b></div>{rows}{more}"


def figures_line(dossier: Dossier) -> str:
    """The figures in one line of plain text."""
    if not dossier.n_active:
        return f"active on none of {dossier.n_tokens:,} tokens"
    middle = dossier.quantiles[0.5]
    return (
        f"active on {dossier.density:.3%} of {dossier.n_tokens:,} tokens; where active: mean {dossier.mean:.3g}, "
        f"median {middle:.3g}, largest {dossier.max:.3g}"
        + (f", {dossier.negative:.0%} below 0" if dossier.negative else "")
    )


def _context(context: Context, largest: float) -> str:
    spans = []
    for number, (token, value) in enumerate(zip(context.tokens, context.activations, strict=True)):
        share = min(1.0, abs(value or 0.0) / largest)
        colour = f"rgba({_BLUE if (value or 0.0) >= 0 else _RED}, {0.7 * share:.2f})"
        bold = "; font-weight: bold" if number == context.at else ""
        title = "attention sink" if value is None else f"{value:.4g}"
        spans.append(f"<span title='{title}' style='background: {colour}{bold}'>{escape(token)}</span>")
    return f"<div style='white-space: pre-wrap'>{context.activation:8.2f} {''.join(spans)}</div>"


def _histogram(counts: Mapping[float, int], height: int = 32) -> str:
    """Bars of the log2 histogram."""
    most = max(counts.values(), default=1)
    bars = "".join(
        f"<rect x='{5 * i}' y='{height * (1 - count / most):.1f}' width='4' height='{height * count / most:.1f}' "
        f"fill='rgb({_BLUE})'><title>from {edge:.3g}: {count}</title></rect>"
        for i, (edge, count) in enumerate(counts.items())
    )
    return f"<svg width='{5 * max(1, len(counts))}' height='{height}'>{bars}</svg>"


def _effect(one: TokenEffect) -> str:
    return f"{one.token.strip() or one.token!r} {one.logit:+.3f}"


def _neighbour(one: Neighbour) -> str:
    return f"{one.name} {one.value:.2f}"


def _task(dossier: Dossier) -> str:
    if not dossier.task:
        return ""
    columns = {
        "place": [one.place or "all" for one in dossier.task],
        "clean": [f"{one.clean:.3f}" for one in dossier.task],
        "corrupted": ["-" if one.corrupted is None else f"{one.corrupted:.3f}" for one in dossier.task],
        "mean change": ["-" if one.change is None else f"{one.change:.3f}" for one in dossier.task],
        "effect": [effect_text(one.effect, one.standard_error) for one in dossier.task],
    }
    return html_table(zip(*columns.values(), strict=True), [*columns])


def effect_text(effect: float | None, standard_error: float | None) -> str:
    """With half of its 95 % interval, where that is known."""
    if effect is None:
        return "-"
    return f"{effect:+.4f}" + ("" if standard_error is None else f" ± {1.96 * standard_error:.4f}")


def _table(rows: Mapping[str, Iterable[str]]) -> str:
    """A row for each that holds anything."""
    listed = ((name, ", ".join(cells)) for name, cells in rows.items())
    return html_table((name, text) for name, text in listed if text)
