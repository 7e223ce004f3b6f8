"""Attribution patching (Nanda 2023; Syed et al. 2023): the gradient at the clean run."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from featcircuits.estimators.estimator import CoefficientEstimator
from featcircuits.model.sites import Site
from featcircuits.splicing.gradients import gradients
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.states import States


@dataclass(frozen=True)
class AttributionPatching(CoefficientEstimator):
    """coefficient = dm/dx at the clean run; one forward and one backward pass for all sites."""

    def coefficients(self, spliced: SplicedModel, states: States) -> dict[Site, Tensor]:
        """dm/dx at the clean run [example, slot, width], by site."""
        return gradients(spliced, states.batch.clean, states.objective, spliced.sites)
