"""The base classes of estimators (frozen dataclasses whose fields are the options), and their results."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from featcircuits.errors import InputError
from featcircuits.estimators.table import ESTIMATORS
from featcircuits.inputs.variants import Variant
from featcircuits.model.sites import Site
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.baselines import Baseline
from featcircuits.states.contraction import SiteEffects, contract_all
from featcircuits.states.states import States
from featcircuits.tasks.corruption import Noise
from featcircuits.tasks.task import Task

ROWS = 512
"""The most rows of one forward pass, if memory allows so many."""


class Linearised(NamedTuple):
    """A run in which edges differentiate direct connections, and what each site's change is multiplied by there."""

    states: States
    coefficients: Mapping[Site, Tensor]
    """The coefficient at every site [example, slot, width]."""


class Estimator(Variant, ABC):
    """Computes the effect on m of every node of a batch."""

    table = ESTIMATORS

    compared: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)
    """The options with which `fc.agree` compares it with exact patching by default."""
    has_edges: ClassVar[bool] = False
    """Whether `fc.edge_effects` can use it."""

    @property
    def holds_attention(self) -> bool:
        """Whether its backward passes hold attention patterns and norm scales, so that MLPs alone are not linear."""
        return False

    @property
    def through_features(self) -> bool:
        """Whether its backward passes go through transcoders' features alone, so that errors there read nothing."""
        return False

    def check(self, task: Task, baseline: Baseline) -> None:
        """Raise `InputError` if the task or baseline lacks something that the estimator needs; most need nothing."""

    @abstractmethod
    def effects(self, spliced: SplicedModel, states: States) -> dict[Site, SiteEffects]:
        """The effects of the nodes of every site."""

    def linearised(
        self, spliced: SplicedModel, states: States, coefficients: Mapping[Site, Tensor] | None = None
    ) -> Iterator[Linearised]:
        """The runs whose edges, added up, are this estimator's; each is in force until the next one is asked for.

        `coefficients`: those of the clean run, if they are known.
        """
        raise NotImplementedError(f"estimator {self.name!r} has no edges by gradients")


class CoefficientEstimator(Estimator):
    """An estimator with a coefficient per site: a node's effect is its change times it. Edges need a coefficient."""

    has_edges = True

    @abstractmethod
    def coefficients(self, spliced: SplicedModel, states: States) -> dict[Site, Tensor]:
        """The coefficient at every site [example, slot, width]."""

    def propagation(self, spliced: SplicedModel, states: States) -> AbstractContextManager[States]:
        """A context with the rules under which edges differentiate direct connections; without rules, gradients.

        It returns the states, changed if the estimator also differentiates the metric in its own way (secants).
        """
        return nullcontext(states)

    def linearised(
        self, spliced: SplicedModel, states: States, coefficients: Mapping[Site, Tensor] | None = None
    ) -> Iterator[Linearised]:
        """The clean run under the estimator's rules."""
        found = self.coefficients(spliced, states) if coefficients is None else coefficients
        with self.propagation(spliced, states) as between:
            yield Linearised(between, found)

    def effects(self, spliced: SplicedModel, states: States) -> dict[Site, SiteEffects]:
        """Each node's change times the coefficient, by site."""
        return contract_all(states, spliced, self.coefficients(spliced, states))


def need_baseline(estimator: Estimator, baseline: Baseline, *known: str) -> None:
    """Raise `InputError` for a baseline without a second run for the estimator."""
    given = "noise" if isinstance(baseline, Noise) else baseline
    if given not in known:
        raise InputError(
            f"estimator {estimator.name!r} goes from the clean to the patched run and needs pairs: baseline {given!r} "
            f"is not one of {', '.join(known)}; use another estimator for it"
        )


def need_corrupted_prompts(estimator: Estimator, task: Task) -> None:
    """Raise `InputError` for a task without pairs."""
    if not task.paired:
        raise InputError(
            f"{task.name}: estimator {estimator.name!r} moves the inputs to the corrupted prompt, and the task has "
            "none; use another estimator, such as ig"
        )
