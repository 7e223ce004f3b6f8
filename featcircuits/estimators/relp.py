"""Relevance patching (Rezaei Jafari et al. 2025): LRP coefficients in place of gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from featcircuits.estimators.estimator import CoefficientEstimator
from featcircuits.model.sites import Site
from featcircuits.propagation import propagation, rule_names
from featcircuits.splicing.spliced import SplicedModel, gradients
from featcircuits.states.states import States


@dataclass(frozen=True)
class RelevancePatching(CoefficientEstimator):
    """coefficient = what a backward pass of m under the rules brings to x in the clean run.

    Relevance passes a spliced site unchanged, as gradients do: the coefficient at a feature is
    that of x along its decoder row, and no rule is applied inside a dictionary. One forward and
    one backward for all sites. `rules`: see `featcircuits.propagation`.
    """

    rules: str = "default"

    def __post_init__(self) -> None:
        super().__post_init__()
        rule_names(self.rules)

    @contextmanager
    def propagation(self, spliced: SplicedModel, states: States) -> Iterator[States]:
        """The rules on the model; edges differentiate direct connections under the same."""
        with propagation(spliced.model, self.rules, spliced.architecture):
            yield states

    def coefficients(self, spliced: SplicedModel, states: States) -> dict[Site, Tensor]:
        with self.propagation(spliced, states):
            return gradients(spliced, states.batch.clean, states.objective, spliced.sites)
