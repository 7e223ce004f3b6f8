"""Integrated gradients with averaged Jacobians: one backward pass per point for all sites."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from featcircuits.estimators.estimator import ROWS, CoefficientEstimator, need_baseline
from featcircuits.estimators.quadrature import check_quadrature, points
from featcircuits.inputs.ranges import ranged
from featcircuits.model.sites import Site
from featcircuits.propagation.carry import carry
from featcircuits.splicing.gradients import gradients
from featcircuits.splicing.memory import rows_at_once
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.baselines import Baseline
from featcircuits.states.states import States
from featcircuits.tasks.task import Task


@dataclass(frozen=True)
class ChainedIntegratedGradients(CoefficientEstimator):
    """coefficient = product of the mean Jacobians from site to site, and of m's mean gradient at the end.

    At each point of the path every site is on its own straight line between the two runs, whatever
    arrives there. A coefficient that comes back to a site is averaged over the points before it goes
    on. Per-site IG instead averages the Jacobian of everything that follows, with one backward pass per point and
    site. The effects of all nodes of a full cut approach m(corrupted) - m(clean) as the number of points grows. Edges
    use the clean run's Jacobian, as with `ig`.
    """

    steps: int = ranged(2, 1, 100)
    quadrature: str = "gauss"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_quadrature(self.quadrature, self.steps)

    def check(self, task: Task, baseline: Baseline) -> None:
        """Raise `InputError` unless there are two runs to go between."""
        need_baseline(self, baseline, "paired", "noise")

    def coefficients(self, spliced: SplicedModel, states: States) -> dict[Site, Tensor]:
        """The chained coefficients [example, slot, width], by site."""
        tokens, examples = states.batch.clean, torch.arange(len(states.batch.index), device=spliced.device)
        at_once = max(1, rows_at_once(spliced, tokens.ids.shape[1], ROWS, gradients=True) // self.steps)
        parts = [self._coefficients(spliced, states, part) for part in examples.split(at_once)]
        return {site: torch.cat([part[site] for part in parts]) for site in spliced.sites}

    def _coefficients(self, spliced: SplicedModel, states: States, examples: Tensor) -> dict[Site, Tensor]:
        path = torch.tensor(points(self.quadrature, self.steps), dtype=torch.float64)
        alpha, weight = path[:, :, None, None, None].unbind(1)
        rows, folded = examples.repeat(len(path)), (len(path), len(examples))

        def mean(x: Tensor) -> Tensor:
            """Pass back the mean over the points to each of them."""
            shared = weight.to(x.device, x.dtype) * x.unflatten(0, folded).sum(0)
            return shared.flatten(0, 1)

        def put(site: Site, x: Tensor) -> Tensor:
            state = states.sites[site]
            change = state.x_change[examples]
            on_line = state.x[examples] + alpha.to(change.device, change.dtype) * change
            return carry(on_line.flatten(0, 1).to(x.dtype), mean(x))

        found = gradients(
            spliced,
            states.batch.clean.select(rows),
            states.objective.select(rows),
            spliced.sites,
            edit=put,
            edited=spliced.sites,
        )
        return {site: (weight.to(g.device, g.dtype) * g.unflatten(0, folded)).sum(0) for site, g in found.items()}
