"""What a selection rule is: a frozen dataclass whose fields are its options, and an order of nodes."""

from __future__ import annotations

from abc import ABC, abstractmethod

from featcircuits.inputs.variants import Variant
from featcircuits.model.nodes import Node
from featcircuits.selection.evidence import Evidence
from featcircuits.selection.table import SELECTIONS
from featcircuits.states.baselines import Baseline
from featcircuits.tasks.task import Task


class SelectionRule(Variant, ABC):
    """The order in which a circuit takes its nodes.

    It holds every node with an effect, the one to keep longest first; sizes of a circuit and of the evaluation's
    curve are beginnings of it.
    """

    table = SELECTIONS

    def check(self, task: Task, baseline: Baseline) -> None:
        """Raise `InputError` for what the rule needs and the task or the baseline does not have; most need nothing."""

    @abstractmethod
    def order(self, evidence: Evidence) -> list[Node]:
        """The nodes of `evidence.scores`, each once."""
