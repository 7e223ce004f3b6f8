"""Areas under the curves of circuits that take nodes by each estimator's |effect|, on held-out pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import featcircuits as fc
from experiments.frontier.models import ESTIMATORS, PLAIN, REFERENCE, Case
from experiments.selection.cells import Ordered, Setting, ablated_model, cell, judged
from featcircuits.agreement.agree import parse_compared
from featcircuits.evaluation.ablated import Subgraph, metric_model, ranks_of
from featcircuits.evaluation.faithfulness import Reference, faithfulness
from featcircuits.runs.cost import measured
from featcircuits.splicing.spliced import SplicedModel

SETTINGS = (Setting("mean", "as-circuit"), Setting("paired", "as-circuit"))
CANDIDATES = ("atp", "relp", "relp:rules=attnlrp", "ig", "ig-inputs", "ig-chain", "secant", "blend")
"""Measured again from other training pairs."""


def circuits(case: Case, train: int, test: int) -> dict[str, list[dict[str, Any]]]:
    """Rows per estimator and ablation, from the first training pairs (`circuits`) and from the next (`again`).

    `features_alone`: the faithfulness of all features with every error node ablated.
    """
    assert case.test is not None
    held_out = case.test.take(min(test, len(case.test)))
    train = min(train, len(case.train) // 2)
    first, second = (
        case.train.with_options(examples=case.train.examples[begin : begin + train]) for begin in (0, train)
    )
    return {
        "circuits": areas(case, first, held_out, (REFERENCE, *ESTIMATORS)),
        "again": areas(case, second, held_out, CANDIDATES),
        "features_alone": [
            case.found() | {"ablation": setting.ablation, "faithfulness": features_alone(case.scope, held_out, setting)}
            for setting in SETTINGS
        ],
    }


def areas(case: Case, task: fc.Task, held_out: fc.Task, estimators: Sequence[str]) -> list[dict[str, Any]]:
    """A row per estimator and ablation, each beside the plain one."""
    found = {estimator: ordered(case, task, estimator) for estimator in estimators}
    sizes = [size for size in case.sizes if size <= min(len(own.order) for own in found.values())]
    rows = []
    for setting in SETTINGS:
        scores = cell(case.scope, held_out, found, setting, sizes)
        where = case.found() | asdict(setting) | {"train": len(task), "test": len(held_out), "sizes": sizes}
        rows += [
            where | {"estimator": estimator} | judged(own, scores[PLAIN], found[estimator])
            for estimator, own in scores.items()
        ]
    return rows


def ordered(case: Case, task: fc.Task, text: str) -> Ordered:
    """Nodes by descending |effect|, and what estimating took."""
    compared = parse_compared(text)
    with measured(case.scope, len(task) * task.longest) as cost:
        effects = fc.node_effects(
            case.scope, task, compared.estimator, error_effects=compared.error_effects, keep_examples=False
        )
    order = fc.select(case.scope, task, effects, "effect")
    return Ordered(order, cost.forwards, cost.backwards, cost.cpu_seconds)


def features_alone(spliced: SplicedModel, task: fc.Task, setting: Setting) -> float:
    """Faithfulness of all features with every error ablated."""
    nothing = Subgraph(ranks_of(spliced, task.places, []), 0)
    everything = Subgraph(nothing.ranks, 0, complement=True)
    model = ablated_model(spliced, task, Setting(setting.ablation, "remove"), 0)
    all_features, empty = model.metric(task, [everything, nothing]).mean(1).tolist()
    return faithfulness(all_features, Reference(float(metric_model(spliced, task, 50).mean()), empty))
