"""Pruning by the kept circuit's own gradient: estimate in the ablated circuit, drop the weakest, repeat."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from featcircuits.evaluation.ablated import AblatedModel, Prepared
from featcircuits.evaluation.masked import Masks, mask_gradients
from featcircuits.inputs.ranges import MOST, ranged
from featcircuits.model.nodes import Node
from featcircuits.selection.evidence import Evidence, check_search, strongest
from featcircuits.selection.masks import at_nodes, masks_of
from featcircuits.selection.rule import SelectionRule
from featcircuits.states.baselines import Baseline
from featcircuits.tasks.task import Task


@dataclass(frozen=True)
class IteratedPruning(SelectionRule):
    """Drops the `drop` share of nodes with smallest |dF/dz| again and again, down to `smallest` nodes.

    z = 1 keeps a node and 0 ablates it, so dF/dz is a node's effect inside the circuit that is left. Nodes that
    were dropped later come first. `ablation`: "same" as the baseline of the effects, or another by name.
    `error_nodes`: as in `featcircuits.evaluation.evaluate`.
    """

    drop: float = ranged(0.1, 0.01, 0.9)
    smallest: int = ranged(16, 1, MOST)
    ablation: str = "same"
    error_nodes: str = "as-circuit"

    def check(self, task: Task, baseline: Baseline) -> None:
        """Raise `InputError` for an ablation unsuitable for the task."""
        check_search(self.ablation, self.error_nodes, task, baseline)

    def order(self, evidence: Evidence) -> list[Node]:
        """The nodes, those that were dropped last first."""
        ablated = evidence.ablated(self.ablation, self.error_nodes)
        prepared = list(ablated.prepared(evidence.task))
        kept, dropped = evidence.searched(self.error_nodes)
        sizes = self._sizes(len(kept))
        for size in evidence.progress(sizes, "iterated pruning", len(sizes)):
            effects = effects_inside(ablated, prepared, evidence.task, kept)
            ranked = strongest(dict(zip(kept, effects, strict=True)))
            kept, dropped = ranked[:size], [*ranked[size:], *dropped]
        return [*kept, *dropped]

    def _sizes(self, count: int) -> list[int]:
        """How many nodes are kept after each round; the last round drops none and only ranks."""
        sizes = []
        while count > self.smallest:
            count = max(self.smallest, min(count - 1, int(count * (1 - self.drop))))
            sizes.append(count)
        return [*sizes, count]


def effects_inside(ablated: AblatedModel, prepared: Iterable[Prepared], task: Task, nodes: list[Node]) -> list[float]:
    """Each node's mean dF/dz at 1, with everything except `nodes` ablated."""
    masks = masks_of(ablated.spliced, task.places, nodes)
    total: Masks = {site: torch.zeros_like(mask) for site, mask in masks.items()}
    for batch in prepared:
        for site, gradient in mask_gradients(ablated, batch, masks).items():
            total[site].add_(gradient)
    return (at_nodes(total, ablated.spliced, task.places, nodes) / len(task)).tolist()
