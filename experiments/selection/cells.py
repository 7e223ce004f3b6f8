"""One cell of the comparison: every rule's curve on held-out pairs of one behaviour, under one ablation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import featcircuits as fc
from featcircuits.effects.results import NodeEffects
from featcircuits.evaluation.ablated import AblatedModel, Subgraph, metric_model, ranks_of
from featcircuits.evaluation.ablations import prepared_ablation
from featcircuits.evaluation.faithfulness import Reference, area, area_from_one, faithfulness
from featcircuits.evaluation.intervals import FOLDS, interval, parts
from featcircuits.model.nodes import Node
from featcircuits.runs.cost import measured
from featcircuits.splicing.spliced import SplicedModel

SEARCHING = ("iterated", "mask", "greedy")
"""Rules that run ablated models: judged under the ablation they ran."""


@dataclass(frozen=True)
class Setting:
    """How nodes outside a circuit are ablated, and what becomes of error nodes."""

    ablation: str
    error_nodes: str


SETTINGS = tuple(
    Setting(ablation, error_nodes) for ablation in ("mean", "paired") for error_nodes in ("as-circuit", "remove")
)


@dataclass(frozen=True)
class Ordered:
    """A rule's order, and what finding it took beyond the effects: passes of all prompts, and CPU seconds."""

    order: list[Node]
    forwards: float
    backwards: float
    seconds: float


@dataclass(frozen=True)
class Scores:
    """Areas on all examples, and on each of five parts with their own ablation values."""

    area: float
    area_from_one: float
    folds: tuple[tuple[float, float], ...]
    faithfulness: tuple[float, ...]


def orders(
    spliced: SplicedModel, task: fc.Task, effects: NodeEffects, rules: Sequence[str]
) -> dict[tuple[str, Setting], Ordered]:
    """Every rule's order for every setting; a rule that does not search has one order for all."""
    found: dict[tuple[str, Setting], Ordered] = {}
    for rule in rules:
        searching = rule.partition(":")[0] in SEARCHING
        for setting in SETTINGS:
            if not searching and setting != SETTINGS[0]:
                found[rule, setting] = found[rule, SETTINGS[0]]
                continue
            text = f"{rule}:ablation={setting.ablation}:error_nodes={setting.error_nodes}" if searching else rule
            with measured(spliced, len(task) * task.longest) as cost:
                order = fc.select(spliced, task, effects, text)
            found[rule, setting] = Ordered(order, cost.forwards, cost.backwards, cost.cpu_seconds)
    return found


def cell(
    spliced: SplicedModel, task: fc.Task, found: Mapping[str, Ordered], setting: Setting, sizes: Sequence[int]
) -> dict[str, Scores]:
    """Each rule's scores on a held-out task; without errors, circuits are counted in features alone."""
    kept = {
        rule: [node for node in ordered.order if not (setting.error_nodes == "remove" and node.is_error)]
        for rule, ordered in found.items()
    }
    ranks = {rule: ranks_of(spliced, task.places, order) for rule, order in kept.items()}
    nothing = Subgraph(next(iter(ranks.values())), 0)
    circuits = [nothing, *(Subgraph(own, size) for own in ranks.values() for size in sizes)]
    model = metric_model(spliced, task, 50)
    whole = ablated_model(spliced, task, setting, 0).metric(task, circuits)
    pieces = [_curves(model, whole, len(sizes)), *_folds(spliced, task, setting, circuits, model, whole, len(sizes))]
    scores = {}
    for number, rule in enumerate(kept):
        areas = [(area(sizes, curves[number]), area_from_one(sizes, curves[number])) for curves in pieces]
        scores[rule] = Scores(*areas[0], folds=tuple(areas[1:]), faithfulness=tuple(pieces[0][number]))
    return scores


def _folds(
    spliced: SplicedModel,
    task: fc.Task,
    setting: Setting,
    circuits: list[Subgraph],
    model: Tensor,
    whole: Tensor,
    n_sizes: int,
) -> Iterator[list[list[float]]]:
    for fold, part in enumerate(parts(task)):
        rows = torch.arange(fold, len(task), FOLDS)
        # a twin's state does not depend on which other pairs there are
        same = setting.ablation == "paired"
        own = whole[:, rows] if same else ablated_model(spliced, part, setting, fold).metric(part, circuits)
        yield _curves(model[rows], own, n_sizes)


def _curves(model: Tensor, metrics: Tensor, n_sizes: int) -> list[list[float]]:
    """[rule][size] faithfulness, from F of the empty circuit and of every rule's sizes."""
    means = metrics.mean(1)
    reference = Reference(float(model.mean()), float(means[0]))
    scores = [faithfulness(mean, reference) for mean in means[1:].tolist()]
    return [scores[begin : begin + n_sizes] for begin in range(0, len(scores), n_sizes)]


def ablated_model(spliced: SplicedModel, task: fc.Task, setting: Setting, seed: int) -> AblatedModel:
    """The model under a setting, ablation values drawn from the task."""
    prepared = prepared_ablation(setting.ablation, spliced, task, 50, seed)
    return replace(AblatedModel(spliced, prepared, setting.error_nodes), batch_size=50)


def difference(scores: Scores, plain: Scores) -> tuple[float, tuple[float, float] | None]:
    """Area of |1 - faithfulness| less that of the plain order, with the interval of the paired difference."""
    center = scores.area_from_one - plain.area_from_one
    return center, interval(center, [a[1] - b[1] for a, b in zip(scores.folds, plain.folds, strict=True)])


def judged(own: Scores, plain: Scores, ordered: Ordered) -> dict[str, Any]:
    """Both areas with intervals, the difference from the plain order's, and the budget; plain data."""
    center, between = difference(own, plain)
    return {
        "area": own.area, "area_interval": interval(own.area, [a for a, _ in own.folds]),
        "area_from_one": own.area_from_one,
        "area_from_one_interval": interval(own.area_from_one, [b for _, b in own.folds]),
        "difference": center, "difference_interval": between, "verdict": verdict(between),
        "faithfulness": own.faithfulness, "folds": own.folds,
        "forwards": ordered.forwards, "backwards": ordered.backwards, "seconds": ordered.seconds,
    }  # fmt: skip


def verdict(between: tuple[float, float] | None) -> str:
    """Which side of 0 the whole interval is on."""
    if between is None:
        return "unknown"
    return "better" if between[1] < 0 else "worse" if between[0] > 0 else "same"
