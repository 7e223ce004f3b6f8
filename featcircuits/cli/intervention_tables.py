"""Tables of what interventions did."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from featcircuits.cli.output import printable
from featcircuits.interventions.intervention import NOTHING
from featcircuits.interventions.outcome import Control, Downstream, Figure, Likeness, Measured, Outcome, TokenChange


def outcome_tables(outcome: Outcome) -> Iterator[RenderableType]:
    """What was done, F before and after, and the tables."""
    held = "" if outcome.held == NOTHING else f", held: {outcome.held}"
    count = f"{outcome.n_examples} prompt{'s' if outcome.n_examples > 1 else ''}"
    yield f"{outcome.task}, {count}, F = {outcome.metric}{held}"
    yield f"F before {_figure(outcome.before)}, after {_figure(outcome.after)}; KL {outcome.kl.mean:.3f} nats"
    yield _changes(outcome)
    if outcome.controls:
        yield _controls(outcome.controls)
        yield from (_alike(one.likeness) for one in outcome.controls if one.likeness is not None)
    if outcome.tokens:
        yield _tokens(outcome.tokens)
    if outcome.downstream:
        yield _downstream(outcome.downstream)
    yield from outcome.notes


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE)
    table.add_column(columns[0], overflow="fold")
    for name in columns[1:]:
        table.add_column(name, justify="right")
    return table


def _changes(outcome: Outcome) -> Table:
    table = _table("change of F", f"predicted ({outcome.estimator})", "measured", "95 %", "")
    for one in (*outcome.parts, outcome.whole):
        table.add_row(*_change(one))
    if outcome.parts:
        table.add_row("sum of each alone", "", f"{outcome.alone.mean:+.3f}", _interval(outcome.alone), "")
        joint = outcome.interaction
        table.add_row("together minus that", "", f"{joint.mean:+.3f}", _interval(joint), "")
    return table


def _change(one: Measured) -> tuple[str | Text, ...]:
    measured = one.measured
    return one.what, f"{one.predicted.mean:+.3f}", f"{measured.mean:+.3f}", _interval(measured), _mark(one.off)


def _mark(off: bool | None) -> Text:
    return Text("off", style="red") if off else Text("")


def _controls(controls: tuple[Control, ...]) -> Table:
    table = _table("the same to others", "how many", "mean ± s.d.", "largest", "as large")
    for one in controls:
        sd = "" if math.isnan(one.sd) else f" ± {one.sd:.3f}"
        table.add_row(
            one.what, str(len(one.draws)), f"{one.mean:+.3f}{sd}", f"{one.largest:+.3f}", f"{one.at_least:.0%}"
        )
    return table


def _alike(one: Likeness) -> str:
    """How alike the features of a control are to those that were changed."""
    return (
        f"features alike: active at {one.density:.0%} of the changed tokens (changed ones: {one.own_density:.0%}), "
        f"norm there {one.norm:.3g} ({one.own_norm:.3g})"
    )


def _tokens(tokens: tuple[TokenChange, ...]) -> Table:
    table = _table("token", "logit before", "after", "probability before", "after")
    for one in tokens:
        logits = f"{one.logit_before:+.2f}", f"{one.logit_after:+.2f}"
        chances = f"{one.probability_before:.1%}", f"{one.probability_after:.1%}"
        table.add_row(printable(repr(one.token)), *logits, *chances)
    return table


def _downstream(rows: tuple[Downstream, ...]) -> Table:
    table = _table("later feature", "predicted by edges", "measured, rest held", "95 %", "", "measured, all ways")
    for one in rows:
        figures = f"{one.predicted.mean:+.3f}", f"{one.direct.mean:+.3f}", _interval(one.direct)
        table.add_row(one.node, *figures, _mark(one.off), f"{one.measured.mean:+.3f}")
    return table


def _figure(figure: Figure) -> str:
    between = _interval(figure)
    return f"{figure.mean:+.3f}" + (f" ({between})" if between else "")


def _interval(figure: Figure) -> str:
    return "" if math.isnan(figure.low) else f"{figure.low:+.3f} to {figure.high:+.3f}"
