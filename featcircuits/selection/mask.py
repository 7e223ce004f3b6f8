"""A learned mask: scores of nodes, such that at every size the nodes with the best scores make a faithful circuit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from featcircuits.evaluation.ablated import AblatedModel, Prepared, Subgraph, ranks_of
from featcircuits.evaluation.masked import masked_metric
from featcircuits.inputs.ranges import MOST, ranged
from featcircuits.model.nodes import Node
from featcircuits.selection.evidence import Evidence, check_search
from featcircuits.selection.masks import masks_of
from featcircuits.selection.rule import SelectionRule
from featcircuits.states.baselines import Baseline
from featcircuits.tasks.task import Task

_LOW, _HIGH = -0.1, 1.1
"""Masks are sigmoids stretched to this range and cut to [0, 1], so that most are 0 or 1 (Louizos et al. 2018)."""


@dataclass(frozen=True)
class LearnedMask(SelectionRule):
    """Orders nodes by descending learned score; scores begin as -log(rank by |effect|).

    Each step draws a size k, evenly on a log axis from `smallest` to all nodes, keeps about
    the k nodes with the highest scores, mask = sigmoid((score - score of rank k) / temperature), stretched and
    cut, and takes a step of Adam on the mean of ((F(circuit) - F(model)) / (F(model) - F(empty)))^2. `ablation`,
    `error_nodes`: as in `featcircuits.selection.iterated`.
    """

    steps: int = ranged(60, 1, 100_000)
    rate: float = ranged(0.05, 0, 100, above=True)
    temperature: float = ranged(0.3, 0, 100, above=True)
    smallest: int = ranged(16, 1, MOST)
    ablation: str = "same"
    error_nodes: str = "as-circuit"

    def check(self, task: Task, baseline: Baseline) -> None:
        """Raise `InputError` for an ablation unsuitable for the task."""
        check_search(self.ablation, self.error_nodes, task, baseline)

    def order(self, evidence: Evidence) -> list[Node]:
        """The nodes by descending learned score."""
        ablated, task = evidence.ablated(self.ablation, self.error_nodes), evidence.task
        nodes, fixed = evidence.searched(self.error_nodes)
        batches = list(ablated.prepared(task))
        gap, generator = _gap(ablated, batches, task), torch.Generator().manual_seed(evidence.seed)
        scores = (-torch.arange(1, len(nodes) + 1).log()).requires_grad_()
        optimiser = torch.optim.Adam([scores], self.rate)
        for _ in evidence.progress(range(self.steps), "learning a mask", self.steps):
            optimiser.zero_grad()
            for batch in batches:
                masks = masks_of(ablated.spliced, task.places, nodes, self._drawn(scores, generator))
                unfaithful = ((masked_metric(ablated, batch, masks) - batch.model) / gap) ** 2
                (unfaithful.sum() / len(task)).backward()
            optimiser.step()
        found = dict(zip(nodes, scores.tolist(), strict=True))
        return [*sorted(nodes, key=lambda node: -found[node]), *fixed]

    def _drawn(self, scores: Tensor, generator: torch.Generator) -> Tensor:
        """Masks that keep about the drawn number of nodes, differentiable with respect to the scores."""
        few = min(self.smallest, len(scores))
        size = round(few * (len(scores) / few) ** float(torch.rand(1, generator=generator)))
        threshold = scores.detach().topk(size).values[-1]
        soft = ((scores - threshold) / self.temperature).sigmoid()
        return (soft * (_HIGH - _LOW) + _LOW).clamp(0, 1)


def _gap(ablated: AblatedModel, batches: Sequence[Prepared], task: Task) -> float:
    """The mean F(model) - mean F(empty), or 1 if it is too small to divide by."""
    empty = ablated.metric(task, [Subgraph(ranks_of(ablated.spliced, task.places, []), 0)]).mean()
    model = torch.cat([batch.model for batch in batches]).double().mean().cpu()
    return abs(float(model - empty)) or 1.0
