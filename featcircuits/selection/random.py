"""A random order: the baseline that every other order has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from featcircuits.model.nodes import Node
from featcircuits.selection.evidence import Evidence
from featcircuits.selection.rule import SelectionRule


@dataclass(frozen=True)
class RandomOrder(SelectionRule):
    """A shuffle by the evidence's seed of all nodes that have an effect, whatever their sites and effects.

    One draw says little; compare with several seeds. `fc.evaluate` draws its random controls in another way: as many
    nodes at every site as the circuit has.
    """

    def order(self, evidence: Evidence) -> list[Node]:
        """The nodes in an order that depends on the seed alone."""
        nodes = list(evidence.scores)
        Random(evidence.seed).shuffle(nodes)
        return nodes
