"""What an estimator is, and all that stand on their own; a new one is a file and a row here.

A method is a frozen dataclass whose fields are its options. An `Estimator` gives a coefficient per
site, and a node's effect is its change times that; edges need one. A `NodeMethod` looks at each
node and gives effects only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from torch import Tensor

from featcircuits.estimators.atp import AttributionPatching
from featcircuits.estimators.atp_drop import GradDrop
from featcircuits.estimators.atp_star import AtPStar, FiniteFirstHop, QueryKeyFix
from featcircuits.estimators.exact import ExactPatching
from featcircuits.estimators.ig import IntegratedGradients
from featcircuits.estimators.ig_chain import ChainedIntegratedGradients
from featcircuits.estimators.ig_conductance import Conductance
from featcircuits.estimators.ig_inputs import InputIntegratedGradients
from featcircuits.estimators.relp import RelevancePatching
from featcircuits.estimators.secant import Secant
from featcircuits.model.sites import Site
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.contraction import contract
from featcircuits.states.states import States


@runtime_checkable
class Estimator(Protocol):
    """A method whose effects are change times coefficient."""

    def coefficients(self, spliced: SplicedModel, states: States) -> dict[Site, Tensor]:
        """[example, slot, width] at every site."""
        ...

    def propagation(self, spliced: SplicedModel, states: States) -> AbstractContextManager[States]:
        """The rules under which direct connections are differentiated for edges; none for gradients.

        Gives the states, with what else the method differentiates in them (secants: the metric).
        """
        ...


@runtime_checkable
class NodeMethod(Protocol):
    """A method that gives effects node by node."""

    def effects(self, spliced: SplicedModel, states: States) -> dict[Site, tuple[Tensor, Tensor]]:
        """Per site: the effect of each feature entry [n], and of the error [example, slot]."""
        ...


STANDALONE: Mapping[str, Callable[..., Estimator | NodeMethod]] = {
    "exact": ExactPatching,
    "atp": AttributionPatching,
    "atp-drop": GradDrop,
    "atp-qk": QueryKeyFix,
    "atp-star": AtPStar,
    "atp-hop1": FiniteFirstHop,
    "ig": IntegratedGradients,
    "ig-inputs": InputIntegratedGradients,
    "ig-chain": ChainedIntegratedGradients,
    "ig-conductance": Conductance,
    "relp": RelevancePatching,
    "secant": Secant,
}


def effects_of(
    spliced: SplicedModel, states: States, estimator: Estimator | NodeMethod
) -> dict[Site, tuple[Tensor, Tensor, Tensor | None]]:
    """Per site: feature entries' effects [n], errors' effects [example, slot], coefficients."""
    if isinstance(estimator, NodeMethod):
        return {site: (*effects, None) for site, effects in estimator.effects(spliced, states).items()}
    coefficients = estimator.coefficients(spliced, states)
    return {
        site: (*contract(state, spliced, site, coefficients[site]), coefficients[site])
        for site, state in states.sites.items()
    }
