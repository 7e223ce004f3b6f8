"""Several estimators together: the mean of their ranks."""

from __future__ import annotations

from dataclasses import dataclass

from featcircuits.effects.nodes import NodeEffects, node_effects
from featcircuits.errors import InputError
from featcircuits.estimators import check_method, method_named
from featcircuits.model.nodes import Node
from featcircuits.selection.evidence import Evidence, strongest
from featcircuits.states.baselines import Baseline
from featcircuits.tasks.task import Task


@dataclass(frozen=True)
class MeanRank:
    """Ascending mean, over estimators, of a node's rank by |effect|; one without an effect ranks last.

    `methods`: names joined by +, each with its default options. The estimator that was traced with counts
    too, and is not run again.
    """

    methods: str = "atp+relp+ig-inputs"

    def __post_init__(self) -> None:
        if not all(self._names()):
            raise InputError(f"methods={self.methods!r}: give names of estimators joined by +, such as atp+relp")
        for name in self._names():
            method_named(name, {})

    def check(self, task: Task, baseline: Baseline) -> None:
        """Every estimator has to be one for the task and the baseline."""
        for name in self._names():
            check_method(name, method_named(name, {}), task, baseline)

    def order(self, evidence: Evidence) -> list[Node]:
        effects, total = evidence.effects, dict.fromkeys(evidence.scores, 0.0)
        for found in [effects, *(_run(evidence, name) for name in self._names() if name != effects.method)]:
            values = {node: effect for node, effect, _ in found.nodes()}
            ranked = strongest({node: values.get(node, 0.0) for node in total})
            total = {node: total[node] + rank for rank, node in enumerate(ranked)}
        return sorted(evidence.by_effect(), key=lambda node: total[node])

    def _names(self) -> list[str]:
        return [name.strip() for name in self.methods.split("+")]


def _run(evidence: Evidence, method: str) -> NodeEffects:
    effects = evidence.effects
    return node_effects(
        evidence.spliced, evidence.task, method,
        baseline=effects.baseline, errors=effects.errors, batch_size=effects.batch_size, keep_examples=False,
        progress=evidence.progress,
    )  # fmt: skip
