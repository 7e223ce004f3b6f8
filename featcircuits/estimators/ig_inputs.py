"""Integrated gradients over the inputs (Hanna et al. 2024, EAP-IG), carried to features."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from featcircuits.errors import InputError
from featcircuits.estimators.quadrature import MOST_STEPS, check_quadrature, points
from featcircuits.inputs.ranges import MOST_ROWS, ranged
from featcircuits.model.sites import EMBED, Site
from featcircuits.splicing.spliced import SplicedModel, gradients
from featcircuits.states.states import States


@dataclass(frozen=True)
class InputIntegratedGradients:
    """coefficient = mean of dm/dx while the embeddings move from the clean prompt to the corrupted one.

    Every site rides along, so one backward pass a point serves all of them; `ig` needs one for each
    point and site. The path is that of the pair, whatever patching puts in.
    """

    steps: int = ranged(5, 1, MOST_STEPS)
    rule: str = "gauss"
    max_rows: int = ranged(512, 1, MOST_ROWS)
    """Rows (examples x points) of one forward."""

    needs_pairs: ClassVar[bool] = True
    """Of the task, whatever the baseline"""

    def __post_init__(self) -> None:
        check_quadrature(self.rule, self.steps)

    def propagation(self, spliced: SplicedModel, states: States) -> AbstractContextManager[States]:
        return nullcontext(states)

    def coefficients(self, spliced: SplicedModel, states: States) -> dict[Site, Tensor]:
        """[example, slot, width] at every site; raises `InputError` where prompts have no pair."""
        if states.batch.corrupted is None:
            raise InputError("method 'ig-inputs' moves the inputs to the corrupted prompt, and the task has none")
        embed = spliced.architecture.module(spliced.model, EMBED)
        with torch.no_grad():
            move = embed(states.batch.corrupted.ids) - embed(states.batch.clean.ids)
        count = len(states.batch.index)
        totals = {site: torch.zeros_like(state.x) for site, state in states.sites.items()}
        path = torch.tensor(points(self.rule, self.steps), dtype=torch.float64)
        for part in path.split(spliced.copies_at_once(states.batch.clean, self.max_rows, gradients=True)):
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
