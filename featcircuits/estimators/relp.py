"""Relevance patching (Rezaei Jafari et al. 2025): LRP coefficients in place of gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from featcircuits.estimators.estimator import CoefficientEstimator
from featcircuits.estimators.replacement import replaced_mlps
from featcircuits.model.sites import Site
from featcircuits.propagation import propagation, rule_names
from featcircuits.splicing.gradients import gradients
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.states import States


@dataclass(frozen=True)
class RelevancePatching(CoefficientEstimator):
    """coefficient = result at x of a backward pass of m under the rules in the clean run.

    Relevance passes a spliced site unchanged, as gradients do: the coefficient at a feature is
    that of x along its decoder row, and no rule is applied inside a dictionary. With the rule `features` relevance goes
    through transcoders' features instead of their MLPs, so that errors read nothing. It takes one forward and
    one backward pass for all sites. `rules`: see `featcircuits.propagation`.
    """

    rules: str = "default"

    def __post_init__(self) -> None:
        super().__post_init__()
        rule_names(self.rules)

    @property
    def holds_attention(self) -> bool:
        """Whether its rules hold attention patterns and norm scales."""
        return {"ah", "ln"} <= set(rule_names(self.rules))

    @property
    def through_features(self) -> bool:
        """Whether gradients go through transcoders' features in place of their MLPs."""
        return "features" in rule_names(self.rules)

    @contextmanager
    def propagation(self, spliced: SplicedModel, states: States) -> Iterator[States]:
        """A context with the rules on the model, so that edges differentiate direct connections under them."""
        features = replaced_mlps(spliced, states)
        with propagation(spliced.model, self.rules, spliced.architecture, features=features):
            yield states

    def coefficients(self, spliced: SplicedModel, states: States) -> dict[Site, Tensor]:
        """The relevance coefficients [example, slot, width], by site."""
        with self.propagation(spliced, states):
            return gradients(spliced, states.batch.clean, states.objective, spliced.sites)
