"""Integrated gradients over the inputs (Hanna et al. 2024, EAP-IG), carried to features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from featcircuits.estimators.estimator import ROWS, CoefficientEstimator, need_corrupted_prompts
from featcircuits.estimators.quadrature import MOST_STEPS, check_quadrature, points
from featcircuits.inputs.ranges import ranged
from featcircuits.model.sites import EMBED, Site
from featcircuits.splicing.gradients import gradients
from featcircuits.splicing.memory import copies_at_once
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.baselines import Baseline
from featcircuits.states.states import States
from featcircuits.tasks.task import Task


@dataclass(frozen=True)
class InputIntegratedGradients(CoefficientEstimator):
    """coefficient = mean of dm/dx while the embeddings move from the clean prompt to the corrupted one.

    Every site moves along with the embeddings, so one backward pass per point is enough for all of them; `ig` needs
    one per point and site. The path is always that of the pair, whatever the baseline.
    """

    steps: int = ranged(5, 1, MOST_STEPS)
    quadrature: str = "gauss"

    compared = ({"steps": 2}, {"steps": 5})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_quadrature(self.quadrature, self.steps)

    def check(self, task: Task, baseline: Baseline) -> None:
        """Raise `InputError` for a task without pairs."""
        need_corrupted_prompts(self, task)

    def coefficients(self, spliced: SplicedModel, states: States) -> dict[Site, Tensor]:
        """The mean gradient along the inputs' path [example, slot, width], by site."""
        assert states.batch.corrupted is not None
        embed = spliced.architecture.module(spliced.model, EMBED)
        with torch.no_grad():
            move = embed(states.batch.corrupted.ids) - embed(states.batch.clean.ids)
        count = len(states.batch.index)
        totals = {site: torch.zeros_like(state.x) for site, state in states.sites.items()}
        path = torch.tensor(points(self.quadrature, self.steps), dtype=torch.float64)
        for part in path.split(copies_at_once(spliced, states.batch.clean, ROWS, gradients=True)):
            rows = torch.arange(count, device=spliced.device).repeat(len(part))
            alpha, weight = part.to(move.device, move.dtype).repeat_interleave(count, 0)[:, :, None, None].unbind(1)
            found = gradients(
                spliced,
                states.batch.clean.select(rows),
                states.objective.select(rows),
                spliced.sites,
                edit=lambda _, x, rows=rows, alpha=alpha: x + alpha * move[rows],
                edited=[EMBED],
            )
            for site, gradient in found.items():
                totals[site] += (weight.to(gradient.device) * gradient).unflatten(0, (len(part), count)).sum(0)
        return totals
