"""The strongest first, whichever way they push."""

from __future__ import annotations

from dataclasses import dataclass

from featcircuits.model.nodes import Node
from featcircuits.selection.evidence import Evidence
from featcircuits.selection.rule import SelectionRule


@dataclass(frozen=True)
class ByEffect(SelectionRule):
    """Descending |effect|."""

    def order(self, evidence: Evidence) -> list[Node]:
        return evidence.by_effect()
