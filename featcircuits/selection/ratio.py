"""A share of helpful nodes at every size, among nodes whose sign is certain (after Nikankin et al. 2025)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from featcircuits.circuit.circuit import NodeScore
from featcircuits.errors import InputError
from featcircuits.inputs.ranges import ranged
from featcircuits.model.nodes import Node
from featcircuits.selection.evidence import Evidence
from featcircuits.selection.rule import SelectionRule
from featcircuits.states.baselines import Baseline
from featcircuits.tasks.task import Task


@dataclass(frozen=True)
class Ratio(SelectionRule):
    """At every size at least the share `positive` of the nodes are the most helpful ones; the rest follow |effect|.

    Nikankin et al. use this rule to choose one circuit of a given size, from edges whose sign a bootstrap over
    prompts confirms; here circuits of different sizes are nested. A node whose mean effect has its sign in less than
    the share `consistency` of the bootstrap's draws comes after all others. By the normal limit of the means over
    resampled prompts, this share is Phi(|mean| / standard error): it needs no resampling, only running sums.
    """

    positive: float = ranged(0.75, 0, 1)
    consistency: float = ranged(0.95, 0, 1)

    def check(self, task: Task, baseline: Baseline) -> None:
        """Raise `InputError` for fewer than two examples, which cannot tell how certain a sign is."""
        if len(task) < 2:
            raise InputError(f"{task.name}: select=ratio needs at least 2 examples to tell how certain a sign is")

    def order(self, evidence: Evidence) -> list[Node]:
        """The nodes with the share of helpful ones held at every size."""
        count, ranked = len(evidence.task), evidence.by_effect()
        certain = [node for node in ranked if sign_share(evidence.scores[node], count) >= self.consistency]
        kept = set(certain)
        return [*self._mixed(evidence, certain), *(node for node in ranked if node not in kept)]

    def _mixed(self, evidence: Evidence, nodes: list[Node]) -> list[Node]:
        helpful = iter([node for node in nodes if evidence.scores[node].effect > 0])
        order: dict[Node, None] = {}
        n_helpful = 0
        for node in nodes:
            # take the most helpful node that is left whenever the share would fall short
            while n_helpful < self.positive * (len(order) + 1) and node not in order:
                best = next((one for one in helpful if one not in order), None)
                if best is None:
                    break
                order[best] = None
                n_helpful += 1
            if node not in order:
                order[node] = None
                n_helpful += evidence.scores[node].effect > 0
        return list(order)


def sign_share(score: NodeScore, count: int) -> float:
    """The share of a bootstrap's means over `count` examples that have the sign of the mean."""
    spread = score.standard_error * math.sqrt((count - 1) / count)  # a bootstrap divides by n, not n - 1
    if spread == 0:
        return 1.0
    return 0.5 * (1 + math.erf(abs(score.effect) / spread / math.sqrt(2)))
