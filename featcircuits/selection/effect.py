"""The strongest nodes first, whatever their sign."""

from __future__ import annotations

from dataclasses import dataclass

from featcircuits.model.nodes import Node
from featcircuits.selection.evidence import Evidence
from featcircuits.selection.rule import SelectionRule


@dataclass(frozen=True)
class ByEffect(SelectionRule):
    """Descending |effect|."""

    def order(self, evidence: Evidence) -> list[Node]:
        """The nodes by descending |effect|."""
        return evidence.by_effect()
