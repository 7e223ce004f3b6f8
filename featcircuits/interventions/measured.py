"""One batch of prompts, run unedited, with interventions together and one by one, and with controls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.dictionaries.decomposition import wide
from featcircuits.estimators.estimator import CoefficientEstimator, Estimator
from featcircuits.interventions.controls import turned
from featcircuits.interventions.downstream import Change, predicted_by_edges, values
from featcircuits.interventions.edited import Edited, Run, edited
from featcircuits.interventions.intervention import DIRECT
from featcircuits.interventions.moves import Given
from featcircuits.interventions.parts import Part
from featcircuits.interventions.plan import Plan
from featcircuits.interventions.predicted import baseline_of, moved_states, predicted
from featcircuits.model.nodes import Node
from featcircuits.states.states import Objective, states_of
from featcircuits.tasks.task import Batch


class Asked(NamedTuple):
    """What is measured of every batch."""

    plan: Plan
    estimator: Estimator
    units: Sequence[Sequence[Part]]
    """The parts that are run alone, or whole interventions."""
    matched: Sequence[Sequence[Part]]
    """All parts, with features exchanged for others."""
    directions: int
    downstream: Sequence[Node]
    seed: int
    tokens: int


class Batched(NamedTuple):
    """The results of one batch, on the CPU in float64."""

    before: Tensor
    """F of the unedited run [example]"""
    after: Tensor
    predicted: Tensor
    """The predicted change of F of each unit [unit, example]."""
    alone: Tensor
    """The measured change of F of each unit [unit, example]."""
    matched: Tensor
    """The change of F of each control [control, example]."""
    directions: Tensor
    logits_before: Tensor
    """[example, vocabulary]"""
    logits_after: Tensor
    downstream: Change | None


def measured(asked: Asked, batch: Batch) -> Batched:
    """All runs and predictions of a batch."""
    plan = asked.plan
    given = plan.given(batch, plan.parts)
    exchanged = [plan.given(batch, parts) for parts in asked.matched]
    by_unit, edges = _predicted(asked, batch, given)
    with plan.runs(batch) as runs:
        objective = Objective.of(plan.task, batch, runs.unedited.logits)

        def F(run: Run) -> Tensor:
            return -objective(run.logits).double().cpu()

        before, whole = F(runs.unedited), runs.run(plan.parts, given)
        after = F(whole)
        alone = (
            [F(runs.run(unit, given)) - before for unit in asked.units] if len(asked.units) > 1 else [after - before]
        )
        matched = [F(runs.run(*each)) - before for each in zip(asked.matched, exchanged, strict=True)]
        turns = range(asked.seed, asked.seed + asked.directions)
        directions = [F(_along_random(runs, plan.parts, given, turn)) - before for turn in turns]
    return Batched(
        before, after, by_unit, _stacked(alone, before), _stacked(matched, before), _stacked(directions, before),
        wide(runs.unedited.logits).double().cpu(), wide(whole.logits).double().cpu(),
        _downstream(asked, batch, given, runs, whole, edges),
    )  # fmt: skip


def _stacked(rows: Sequence[Tensor], like: Tensor) -> Tensor:
    return torch.stack([*rows]) if rows else like.new_zeros(0, len(like))


def _along_random(runs: Edited, parts: Sequence[Part], given: Given, seed: int) -> Run:
    return runs.run(parts, given, lambda change: turned(change, seed))


def _predicted(asked: Asked, batch: Batch, given: Given) -> tuple[Tensor, Tensor | None]:
    """The predicted change of F by unit [unit, example], and of downstream values [node, example]."""
    plan, spliced = asked.plan, asked.plan.spliced
    states = states_of(spliced, plan.task, batch, baseline_of(plan.task))
    prompts = plan.prompts(batch)

    def after(parts: Sequence[Part]) -> Tensor:
        moved = moved_states(spliced, states, prompts, parts, given)
        return predicted(spliced, moved, asked.estimator, plan.held).cpu()

    by_unit = torch.stack([after(unit) for unit in asked.units])
    if not asked.downstream:
        return by_unit, None
    assert isinstance(asked.estimator, CoefficientEstimator)  # checked before any run
    moved = moved_states(spliced, states, prompts, plan.parts, given)
    return by_unit, predicted_by_edges(spliced, moved, prompts.frame, asked.estimator, asked.downstream)


def _downstream(
    asked: Asked, batch: Batch, given: Given, runs: Edited, whole: Run, edges: Tensor | None
) -> Change | None:
    if edges is None:
        return None
    plan, prompts = asked.plan, asked.plan.prompts(batch)

    def change(before: Run, after: Run) -> Tensor:
        first, second = (values(plan.spliced, run, prompts.frame, asked.downstream) for run in (before, after))
        return second - first

    with edited(plan.spliced, prompts, DIRECT) as held:
        direct = change(held.unedited, held.run(plan.parts, given))
    return Change(edges, direct, change(runs.unedited, whole))
