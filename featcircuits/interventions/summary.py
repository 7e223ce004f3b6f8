"""From batches of runs to the outcome of interventions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from featcircuits.interventions.controls import Strength
from featcircuits.interventions.measured import Asked, Batched
from featcircuits.interventions.outcome import (
    Control,
    Downstream,
    ExampleOutcome,
    Figure,
    Likeness,
    Measured,
    Outcome,
    TokenChange,
)
from featcircuits.interventions.parts import Part
from featcircuits.provenance.manifest import made_on
from featcircuits.splicing.spliced import SplicedModel


def summary(asked: Asked, batches: Sequence[Batched], alike: Mapping[Part, Strength]) -> Outcome:
    """The outcome of all batches together."""
    plan = asked.plan
    before, after = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("before", "after"))
    expected, alone, matched, directions = (
        torch.cat([getattr(batch, name) for batch in batches], dim=1)
        for name in ("predicted", "alone", "matched", "directions")
    )
    change, total = after - before, expected.sum(0)
    names = [_name(unit, asked.units) for unit in asked.units]
    whole = Measured.of("all together" if len(names) > 1 else names[0], total.tolist(), change.tolist())
    single = [Measured.of(name, e.tolist(), a.tolist()) for name, e, a in zip(names, expected, alone, strict=True)]
    examples, kl = _examples(asked, batches, before, after, total)
    return Outcome(
        task=plan.task.name,
        metric=str(plan.task.metric),
        n_examples=len(plan.task),
        interventions=tuple(map(str, plan.interventions)),
        held=plan.held,
        estimator=str(asked.estimator),
        before=Figure.of(before.tolist()),
        after=Figure.of(after.tolist()),
        whole=whole,
        parts=tuple(single) if len(single) > 1 else (),
        alone=Figure.of(alone.sum(0).tolist()),
        interaction=Figure.of((change - alone.sum(0)).tolist()),
        controls=tuple(_controls(asked, change, matched, directions, alike)),
        kl=Figure.of(kl),
        tokens=_all_tokens(asked, batches),
        downstream=tuple(_downstream(asked, batches)),
        examples=tuple(examples),
        notes=_notes(asked, change),
        made_on=made_on(plan.spliced, plan.task),
    )


def _name(unit: Sequence[Part], units: Sequence[Sequence[Part]]) -> str:
    return unit[0].said if len(unit) > 1 or len(units) == 1 else str(unit[0])


def _controls(
    asked: Asked, change: Tensor, matched: Tensor, directions: Tensor, alike: Mapping[Part, Strength]
) -> list[Control]:
    found = []
    if len(matched):
        pairs = [_exchanged(parts, asked) for parts in asked.matched]
        draws = tuple(", ".join(str(new.what) for new, _ in some) for some in pairs)
        likeness = _likeness([pair for some in pairs for pair in some], alike)
        found.append(_control("features alike", draws, matched, change, likeness))
    if len(directions):
        seeds = tuple(f"seed {asked.seed + turn}" for turn in range(len(directions)))
        found.append(_control("random directions", seeds, directions, change, None))
    return found


def _exchanged(parts: Sequence[Part], asked: Asked) -> list[tuple[Part, Part]]:
    return [(new, old) for new, old in zip(parts, asked.plan.parts, strict=True) if new is not old]


def _likeness(pairs: Sequence[tuple[Part, Part]], alike: Mapping[Part, Strength]) -> Likeness:
    """Mean density and norm of the exchanged features, and of those that they stand for."""
    columns = ([float(table[part.feature]) for part, table in side] for side in (
        [(new, alike[old].density) for new, old in pairs], [(new, alike[old].norm) for new, old in pairs],
        [(old, alike[old].density) for _, old in pairs], [(old, alike[old].norm) for _, old in pairs],
    ))  # fmt: skip
    density, norm, own_density, own_norm = (math.fsum(column) / len(column) for column in columns)
    return Likeness(density, norm, own_density, own_norm)


def _control(what: str, draws: tuple[str, ...], rows: Tensor, change: Tensor, likeness: Likeness | None) -> Control:
    means, own = rows.mean(-1), float(change.mean())
    return Control(
        what, draws, tuple(means.tolist()), float(means.mean()),
        float(means.std()) if len(means) > 1 else math.nan, float(means[means.abs().argmax()]),
        float((means.abs() >= abs(own)).double().mean()), likeness,
    )  # fmt: skip


def _examples(
    asked: Asked, batches: Sequence[Batched], before: Tensor, after: Tensor, total: Tensor
) -> tuple[list[ExampleOutcome], list[float]]:
    found: list[ExampleOutcome] = []
    for batch in batches:
        first, second = batch.logits_before.log_softmax(-1), batch.logits_after.log_softmax(-1)
        kl = (first.exp() * (first - second)).sum(-1)
        for row in range(len(first)):
            logits = batch.logits_before[row], batch.logits_after[row]
            chances = first[row].exp(), second[row].exp()
            number = len(found)
            first_F, second_F, expected = (float(column[number]) for column in (before, after, total))
            tokens = _tokens(asked, logits, chances)
            found.append(ExampleOutcome(first_F, second_F, expected, float(kl[row]), tokens))
    return found, [example.kl for example in found]


def _all_tokens(asked: Asked, batches: Sequence[Batched]) -> tuple[TokenChange, ...]:
    """The tokens whose mean probability changes most, with means over all examples."""
    logits = [torch.cat([getattr(batch, name) for batch in batches]) for name in ("logits_before", "logits_after")]
    first, second = (each.mean(0) for each in logits)
    return _tokens(asked, (first, second), (logits[0].softmax(-1).mean(0), logits[1].softmax(-1).mean(0)))


def _tokens(asked: Asked, logits: tuple[Tensor, Tensor], chances: tuple[Tensor, Tensor]) -> tuple[TokenChange, ...]:
    moved = (chances[1] - chances[0]).abs()
    most = moved.topk(min(asked.tokens, len(moved)))
    ids = most.indices[most.values > 0].tolist()
    text = {id: _text(asked.plan.spliced, id) for id in ids}
    return tuple(
        TokenChange(
            text[id], id, float(logits[0][id]), float(logits[1][id]), float(chances[0][id]), float(chances[1][id])
        )
        for id in ids
    )


def _text(spliced: SplicedModel, id: int) -> str:
    return str(id) if spliced.tokenizer is None else spliced.tokenizer.decode([id])


def _downstream(asked: Asked, batches: Sequence[Batched]) -> list[Downstream]:
    found = [batch.downstream for batch in batches if batch.downstream is not None]
    if not found:
        return []
    predicted, direct, measured = (torch.cat([*column], dim=1) for column in zip(*found, strict=True))
    rows = []
    for number, node in enumerate(asked.downstream):
        edges, held, free = (Figure.of(table[number].tolist()) for table in (predicted, direct, measured))
        inside = held.holds(edges.mean)
        rows.append(Downstream(str(node), edges, held, free, None if inside is None else not inside))
    return rows


def _notes(asked: Asked, change: Tensor) -> tuple[str, ...]:
    notes = []
    if not change.any():
        notes.append("Nothing changed: what was edited already had these values in every prompt.")
    if len(asked.plan.task) == 1:
        notes.append("One prompt has no interval, so no prediction is marked.")
    return tuple(notes)
