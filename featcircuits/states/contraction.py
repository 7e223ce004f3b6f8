"""From a coefficient at a site to the effects of its nodes."""

from __future__ import annotations

from torch import Tensor

from featcircuits.model.sites import Site
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.states import SiteState


def contract(state: SiteState, spliced: SplicedModel, site: Site, coefficient: Tensor) -> tuple[Tensor, Tensor]:
    """change . coefficient for every feature (through its decoder row) and for the error vector."""
    coefficient = coefficient.to(state.change.dtype)
    at_features = spliced.dictionaries[site].gradient_at(coefficient.flatten(0, 1), state.row, state.feature)
    features = state.step * at_features
    return features, (state.error_change * coefficient).sum(-1)
