"""How many pairs it takes until the strongest nodes, and a circuit's faithfulness, stay the same."""

from __future__ import annotations

from typing import Any

import numpy as np

import featcircuits as fc
from experiments.frontier.circuits import SETTINGS, ordered
from experiments.frontier.models import PLAIN, Case
from experiments.selection.cells import Setting, ablated_model
from featcircuits.evaluation.ablated import Subgraph, metric_model, ranks_of
from featcircuits.evaluation.faithfulness import Reference, faithfulness

ESTIMATORS = ("atp", "relp", "secant", "blend")
COUNTS = (5, 10, 20, 40, 80, 160)
TEST_COUNTS = (20, 40, 80, 160)
TOP = 100
MOST_SETS = 5


def overlap(case: Case) -> list[dict[str, Any]]:
    """Share of the top 100 of n pairs that is in the top 100 of the file's last half; a row an estimator and n."""
    half = len(case.train) // 2
    rows = []
    for estimator in ESTIMATORS:
        reference = strongest(case, _slice(case.train, half, len(case.train)), estimator)
        for count in (count for count in COUNTS if count <= half):
            starts = range(0, half - count + 1, count)[:MOST_SETS]
            tops = [strongest(case, _slice(case.train, start, start + count), estimator) for start in starts]
            shares = [len(top & reference) / TOP for top in tops]
            rows.append(
                case.found()
                | {"estimator": estimator, "pairs": count, "sets": len(shares), "reference": len(case.train) - half}
                | {"overlap": float(np.mean(shares)), "worst": min(shares)}
            )
    return rows


def strongest(case: Case, task: fc.Task, estimator: str) -> set[fc.Node]:
    """The nodes that a circuit of 100 would have."""
    return set(ordered(case, task, estimator).order[:TOP])


def spread(case: Case, train: int) -> list[dict[str, Any]]:
    """Faithfulness of one circuit on disjoint sets of n held-out pairs; a row an ablation and n."""
    assert case.test is not None
    order = ordered(case, case.train.take(min(train, len(case.train))), PLAIN).order[:TOP]
    rows = []
    for setting in SETTINGS:
        for count in (count for count in TEST_COUNTS if 2 * count <= len(case.test)):
            starts = range(0, len(case.test) - count + 1, count)
            found = [
                nodes_faithfulness(case, _slice(case.test, start, start + count), order, setting, seed)
                for seed, start in enumerate(starts)
            ]
            rows.append(
                case.found()
                | {"ablation": setting.ablation, "pairs": count, "sets": len(found)}
                | {"mean": float(np.mean(found)), "deviation": float(np.std(found, ddof=1))}
            )
    return rows


def nodes_faithfulness(case: Case, task: fc.Task, order: list[fc.Node], setting: Setting, seed: int) -> float:
    """Of all nodes of an order, with ablation values from these pairs alone."""
    ranks = ranks_of(case.scope, task.places, order)
    model = ablated_model(case.scope, task, setting, seed)
    kept, empty = model.metric(task, [Subgraph(ranks, len(order)), Subgraph(ranks, 0)]).mean(1).tolist()
    return faithfulness(kept, Reference(float(metric_model(case.scope, task, 50).mean()), empty))


def _slice(task: fc.Task, begin: int, end: int) -> fc.Task:
    return task.with_options(examples=task.examples[begin:end])
