"""One feature's dossier for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from featcircuits.dossiers.html import effect_text, figures_line
from featcircuits.dossiers.records import Context, Dossier, Neighbour, TokenEffect

_BARS = " ▁▂▃▄▅▆▇█"


def dossier_panel(dossier: Dossier, contexts: int = 10) -> Panel:
    """A panel with label, figures, contexts (active token in brackets), effects, related features and task values."""
    parts = [Text(figures_line(dossier)), *_parts(dossier, contexts)]
    return Panel(Group(*parts), title=Text(f"{dossier.name}: {dossier.label}"), title_align="left")


def _parts(dossier: Dossier, contexts: int) -> Iterator[RenderableType]:
    if dossier.histogram:
        edges = list(dossier.histogram)
        yield Text(f"sizes in quarter octaves from {edges[0]:.3g}: {_bars(list(dossier.histogram.values()))}")
    if dossier.top_tokens:
        shares = ", ".join(f"{one.token.strip() or one.token!r} {one.share:.0%}" for one in dossier.top_tokens)
        yield Text(f"active on: {shares}")
    yield Text(f"promotes: {_effects(dossier.promoted)}\nsuppresses: {_effects(dossier.suppressed)}")
    for title, some in (("strongest contexts", dossier.contexts), ("drawn at random", dossier.samples)):
        if some:
            yield _contexts(title, some[:contexts], dossier.max or 1.0)
    related = (
        ("writes like", dossier.neighbours),
        ("next layer", dossier.next_layer),
        ("active with", dossier.coactive),
    )
    yield Text("\n".join(f"{title}: {_related(rows)}" for title, rows in related if rows))
    if dossier.task:
        yield _task(dossier)


def _bars(counts: list[int]) -> str:
    most = max(counts)
    return "".join(_BARS[-(-(len(_BARS) - 1) * count // most)] for count in counts)


def _effects(rows: tuple[TokenEffect, ...]) -> str:
    return ", ".join(f"{one.token.strip() or one.token!r} {one.logit:+.3f}" for one in rows)


def _related(rows: tuple[Neighbour, ...]) -> str:
    return ", ".join(f"{one.name} {one.value:.2f}" for one in rows)


def _contexts(title: str, contexts: tuple[Context, ...], largest: float) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None)
    table.add_column(justify="right")
    table.add_column()
    for one in contexts:
        table.add_row(f"{one.activation:.2f}", _context(one, largest))
    return table


def _context(context: Context, largest: float) -> Text:
    line = Text()
    for number, (token, value) in enumerate(zip(context.tokens, context.activations, strict=True)):
        share = min(1.0, abs(value or 0.0) / largest)
        style = "bold blue" if share > 0.5 else "blue" if share > 0.1 else ""
        word = token.lstrip(" ")
        space = token[: len(token) - len(word)] if number else ""
        line.append(space).append(f"[{word}]" if number == context.at else word, style)
    return line


def _task(dossier: Dossier) -> Table:
    table = Table(title="on the task", title_justify="left", box=None)
    for name in ("place", "clean", "corrupted", "mean change", "effect ± 95 %"):
        table.add_column(name, justify="left" if name == "place" else "right")
    for one in dossier.task:
        corrupted, change = ("-" if x is None else f"{x:.3f}" for x in (one.corrupted, one.change))
        effect = effect_text(one.effect, one.standard_error)
        table.add_row(one.place or "all", f"{one.clean:.3f}", corrupted, change, effect)
    return table
