"""Node estimators by name; a new one is a file and a row here.

A method is a frozen dataclass whose fields are its options. An `Estimator` gives a coefficient per
site, and a node's effect is its change times that; edges need one. A `NodeMethod` looks at each
node and gives effects only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import fields
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from featcircuits.attribution.nodes.atp import AttributionPatching
from featcircuits.attribution.nodes.atp_star import AtPStar, FiniteFirstHop, QueryKeyFix
from featcircuits.attribution.nodes.exact import ExactPatching
from featcircuits.attribution.nodes.graddrop import GradDrop
from featcircuits.attribution.nodes.ig import IntegratedGradients
from featcircuits.attribution.nodes.ig_inputs import InputIntegratedGradients
from featcircuits.attribution.nodes.relp import RelevancePatching
from featcircuits.errors import InputError
from featcircuits.sites import Site
from featcircuits.splice import SplicedModel
from featcircuits.states import States


@runtime_checkable
class Estimator(Protocol):
    """A method whose effects are change times coefficient."""

    def coefficients(self, spliced: SplicedModel, states: States) -> dict[Site, Tensor]:
        """[example, slot, width] at every site."""
        ...

    def propagation(self, spliced: SplicedModel) -> AbstractContextManager[None]:
        """The rules under which direct connections are differentiated for edges; none for gradients."""
        ...


@runtime_checkable
class NodeMethod(Protocol):
    """A method that gives effects node by node."""

    def effects(self, spliced: SplicedModel, states: States) -> dict[Site, tuple[Tensor, Tensor]]:
        """Per site: the effect of each feature entry [n], and of the error [example, slot]."""
        ...


METHODS: Mapping[str, Callable[..., Estimator | NodeMethod]] = {
    "exact": ExactPatching,
    "atp": AttributionPatching,
    "atp-drop": GradDrop,
    "atp-qk": QueryKeyFix,
    "atp-star": AtPStar,
    "atp-hop1": FiniteFirstHop,
    "ig": IntegratedGradients,
    "ig-inputs": InputIntegratedGradients,
    "relp": RelevancePatching,
}
DEFAULT_METHOD = "relp"
"""Circuits as good as integrated gradients' at a tenth of the time: docs/choosing.md."""


def option_names(name: str) -> list[str]:
    """A method's options; an unknown name is an `InputError`."""
    if name not in METHODS:
        raise InputError(f"unknown method {name!r}; known: {', '.join(METHODS)}")
    return [field.name for field in fields(METHODS[name])]  # type: ignore[arg-type]


def method_named(name: str, options: Mapping[str, Any]) -> Estimator | NodeMethod:
    """Build a method; an unknown name or option is an `InputError`."""
    known = option_names(name)
    if unknown := sorted(set(options) - set(known)):
        raise InputError(f"method {name!r} has no option {unknown[0]!r}; its options: {', '.join(known) or 'none'}")
    return METHODS[name](**options)
