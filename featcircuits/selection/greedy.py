"""Greedy refinement by exact patching of the circuit: each node ablated or restored in it, one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from featcircuits.errors import InputError
from featcircuits.evaluation.ablated import AblatedModel, Subgraph, ranks_of
from featcircuits.inputs.ranges import MOST, ranged
from featcircuits.model.nodes import Node
from featcircuits.selection.evidence import Evidence, check_search, strongest
from featcircuits.selection.rule import SelectionRule
from featcircuits.states.baselines import Baseline
from featcircuits.tasks.task import Task


@dataclass(frozen=True)
class Greedy(SelectionRule):
    """From a circuit of the `pool` strongest nodes down to `smallest`, by exact effects inside it.

    In each round every node of the circuit is ablated alone, and of the nodes that come next, a quarter as many
    are each restored alone. These nodes are then ordered by how much that changes F,
    and the weakest `drop` share of the circuit is removed. It takes one ablated run per node, round and example.
    `ablation`, `error_nodes`: as in `featcircuits.selection.iterated`.
    """

    pool: int = ranged(128, 1, MOST)
    drop: float = ranged(0.4, 0.01, 0.9)
    smallest: int = ranged(16, 1, MOST)
    ablation: str = "same"
    error_nodes: str = "as-circuit"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.smallest > self.pool:
            raise InputError(f"pool={self.pool}, smallest={self.smallest}: give a pool that is at least as large")

    def check(self, task: Task, baseline: Baseline) -> None:
        """Raise `InputError` for an ablation unsuitable for the task."""
        check_search(self.ablation, self.error_nodes, task, baseline)

    def order(self, evidence: Evidence) -> list[Node]:
        """The nodes in the order of the last round that kept them."""
        ablated, (order, fixed) = evidence.ablated(self.ablation, self.error_nodes), evidence.searched(self.error_nodes)
        sizes = self._sizes(len(order))
        for size in evidence.progress(sizes, "greedy refinement", len(sizes)):
            tried = order[: size + size // 4]
            effects = toggling(ablated, evidence.task, order, size, len(tried)).mean(1)
            order[: len(tried)] = strongest(dict(zip(tried, effects.tolist(), strict=True)))
        return [*order, *fixed]

    def _sizes(self, count: int) -> list[int]:
        sizes, size = [], min(self.pool, count)
        while size > self.smallest:
            sizes.append(size)
            size = min(size - 1, int(size * (1 - self.drop)))
        return [*sizes, min(self.smallest, count)]


def toggling(ablated: AblatedModel, task: Task, order: Sequence[Node], size: int, count: int) -> Tensor:
    """F(the first `size` nodes) minus F with each of the first `count` nodes switched [node, example]."""
    ranks = ranks_of(ablated.spliced, task.places, order)
    circuits = [Subgraph(ranks, size), *(Subgraph(ranks, size, toggled=rank) for rank in range(count))]
    found = ablated.metric(task, circuits)
    return found[:1] - found[1:]
