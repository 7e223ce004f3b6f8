"""Secants: finite slopes between both runs in place of gradients.

The slope of one argument is DeepLIFT's Rescale rule (Shrikumar et al. 2017), as a modified gradient after Ancona et al.
(2018); logarithmic means for the softmax come from index decomposition (LMDI, Ang 2005). New here: norms,
attention and products together, so that the effects of all nodes of a cut add up through a whole transformer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from featcircuits.estimators.estimator import CoefficientEstimator, need_baseline
from featcircuits.model.sites import Site
from featcircuits.propagation import secants
from featcircuits.splicing.gradients import gradients
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.baselines import Baseline
from featcircuits.states.states import States
from featcircuits.tasks.task import Task


@dataclass(frozen=True)
class Secant(CoefficientEstimator):
    """coefficient = result at x of a backward pass of m in which each module passes on its secant.

    A module's secant takes the change of its input between the clean and the corrupted run exactly to that of its
    output (`featcircuits.propagation.secant`), and so does m's. The effects of all nodes of a full cut
    therefore add up to m(corrupted) - m(clean). It takes two forward passes and one backward pass for all sites.
    """

    def check(self, task: Task, baseline: Baseline) -> None:
        """Raise `InputError` unless there are two runs to go between."""
        need_baseline(self, baseline, "paired")

    @contextmanager
    def propagation(self, spliced: SplicedModel, states: States) -> Iterator[States]:
        """A context with secants on the model and in m."""
        assert states.batch.corrupted is not None
        with secants(spliced.model, spliced.architecture):
            with torch.no_grad():
                toward = spliced.run(states.batch.corrupted, answers_only=True)
            yield replace(states, objective=states.objective._replace(toward=toward))

    def coefficients(self, spliced: SplicedModel, states: States) -> dict[Site, Tensor]:
        """The secant coefficients [example, slot, width], by site."""
        with self.propagation(spliced, states) as between:
            return gradients(spliced, states.batch.clean, between.objective, spliced.sites)
