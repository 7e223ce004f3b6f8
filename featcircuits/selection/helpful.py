"""Nodes that carry the behaviour first, those that work against it last."""

from __future__ import annotations

from dataclasses import dataclass

from featcircuits.model.nodes import Node
from featcircuits.selection.evidence import Evidence
from featcircuits.selection.rule import SelectionRule


@dataclass(frozen=True)
class HelpfulFirst(SelectionRule):
    """Positive effects, strongest first, then negative ones, strongest first.

    A circuit without nodes that work against the answer may show more of the behaviour than the model does.
    """

    def order(self, evidence: Evidence) -> list[Node]:
        """The nodes with positive effects, strongest first, then the negative ones."""
        return sorted(evidence.by_effect(), key=lambda node: evidence.scores[node].effect < 0)
