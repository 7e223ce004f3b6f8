"""Several estimators together: the mean of their ranks."""

from __future__ import annotations

from dataclasses import dataclass

from featcircuits.effects.nodes import node_effects
from featcircuits.effects.results import NodeEffects
from featcircuits.errors import InputError
from featcircuits.estimators import parse_estimator
from featcircuits.estimators.estimator import Estimator
from featcircuits.model.nodes import Node
from featcircuits.selection.evidence import Evidence, strongest
from featcircuits.selection.rule import SelectionRule
from featcircuits.states.baselines import Baseline
from featcircuits.tasks.task import Task


@dataclass(frozen=True)
class MeanRank(SelectionRule):
    """Orders nodes by the mean over estimators of their rank by |effect|; nodes without an effect rank last.

    `estimators`: names joined by +, each with its default options. The estimator of the trace also counts,
    and is not run again.
    """

    estimators: str = "atp+relp+ig-inputs"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._parsed()

    def check(self, task: Task, baseline: Baseline) -> None:
        """Raise `InputError` if an estimator cannot be used for the task and the baseline."""
        for estimator in self._parsed():
            estimator.check(task, baseline)

    def order(self, evidence: Evidence) -> list[Node]:
        """The nodes by ascending mean rank."""
        effects, total = evidence.effects, dict.fromkeys(evidence.scores, 0.0)
        others = [one for one in self._parsed() if one.name != effects.estimator.name]
        for found in [effects, *(_run(evidence, estimator) for estimator in others)]:
            values = {node: effect for node, effect, _ in found.nodes()}
            ranked = strongest({node: values.get(node, 0.0) for node in total})
            total = {node: total[node] + rank for rank, node in enumerate(ranked)}
        return sorted(evidence.by_effect(), key=lambda node: total[node])

    def _parsed(self) -> list[Estimator]:
        names = [name.strip() for name in self.estimators.split("+")]
        if not all(names):
            raise InputError(f"estimators={self.estimators!r}: give names of estimators joined by +, such as atp+relp")
        return [parse_estimator(name) for name in names]


def _run(evidence: Evidence, estimator: Estimator) -> NodeEffects:
    effects = evidence.effects
    return node_effects(
        evidence.spliced, evidence.task, estimator,
        baseline=effects.baseline, error_effects=effects.error_effects, batch_size=effects.batch_size,
        keep_examples=False, progress=evidence.progress,
    )  # fmt: skip
