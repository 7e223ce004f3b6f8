"""The strongest first, whichever way they push."""

from __future__ import annotations

from dataclasses import dataclass

from featcircuits.model.nodes import Node
from featcircuits.selection.evidence import Evidence
from featcircuits.states.baselines import Baseline
from featcircuits.tasks.task import Task


@dataclass(frozen=True)
class ByEffect:
    """Descending |effect|."""

    def check(self, task: Task, baseline: Baseline) -> None:
        """Needs nothing."""

    def order(self, evidence: Evidence) -> list[Node]:
        return evidence.by_effect()
