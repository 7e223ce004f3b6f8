"""The base class of selection rules: frozen dataclasses whose fields are the options, which order nodes."""

from __future__ import annotations

from abc import ABC, abstractmethod

from featcircuits.inputs.variants import Variant
from featcircuits.model.nodes import Node
from featcircuits.selection.evidence import Evidence
from featcircuits.selection.table import SELECTIONS
from featcircuits.states.baselines import Baseline
from featcircuits.tasks.task import Task


class SelectionRule(Variant, ABC):
    """A rule for the order in which a circuit takes its nodes.

    The order holds every node with an effect, the first to keep first; circuits of every size, and the evaluation's
    curve, take the first nodes of it.
    """

    table = SELECTIONS

    def check(self, task: Task, baseline: Baseline) -> None:
        """Raise `InputError` if the task or the baseline lacks something that the rule needs; most need nothing."""

    @abstractmethod
    def order(self, evidence: Evidence) -> list[Node]:
        """The nodes of `evidence.scores`, each once, the first to keep first."""
