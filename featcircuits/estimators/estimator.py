"""What an estimator is: a frozen dataclass whose fields are its options, and what it makes of a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from featcircuits.errors import InputError
from featcircuits.estimators.table import ESTIMATORS
from featcircuits.inputs.variants import Variant
from featcircuits.model.sites import Site
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.baselines import Baseline
from featcircuits.states.contraction import contract
from featcircuits.states.states import States
from featcircuits.tasks.corruption import Noise
from featcircuits.tasks.task import Task

ROWS = 512
"""Rows of one forward at most, where the memory allows so many."""


class SiteEffects(NamedTuple):
    """Effects of all nodes of one site, in one batch."""

    features: Tensor
    """Of each feature entry [n]"""
    errors: Tensor
    """Of the error term of each position [example, slot]"""
    coefficient: Tensor | None = None
    """[example, slot, width]: an effect is a node's change times this; None where the estimator has none."""


class Estimator(Variant, ABC):
    """Gives every node of a batch its effect on m."""

    table = ESTIMATORS

    compared: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)
    """The options with which `fc.agree` compares it with exact patching when it is given no list."""
    has_edges: ClassVar[bool] = False
    """Whether `fc.edge_effects` can use it."""

    def check(self, task: Task, baseline: Baseline) -> None:
        """Raise `InputError` for what it needs and the task or the baseline does not have; most need nothing."""

    @abstractmethod
    def effects(self, spliced: SplicedModel, states: States) -> dict[Site, SiteEffects]:
        """The effects of the nodes of every site."""


class CoefficientEstimator(Estimator):
    """An estimator with a coefficient per site: a node's effect is its change times that. Edges need one."""

    has_edges = True

    @abstractmethod
    def coefficients(self, spliced: SplicedModel, states: States) -> dict[Site, Tensor]:
        """[example, slot, width] at every site."""

    def propagation(self, spliced: SplicedModel, states: States) -> AbstractContextManager[States]:
        """The rules under which edges differentiate direct connections; without rules, gradients.

        Gives the states, with what else the estimator differentiates in them (secants: the metric).
        """
        return nullcontext(states)

    def effects(self, spliced: SplicedModel, states: States) -> dict[Site, SiteEffects]:
        coefficients = self.coefficients(spliced, states)
        return {
            site: SiteEffects(*contract(state, spliced, site, coefficients[site]), coefficients[site])
            for site, state in states.sites.items()
        }


def need_baseline(estimator: Estimator, baseline: Baseline, *known: str) -> None:
    """Refuse a baseline under which there are no two runs for the estimator to go between."""
    given = "noise" if isinstance(baseline, Noise) else baseline
    if given not in known:
        raise InputError(
            f"estimator {estimator.name!r} goes from the clean to the patched run and needs pairs: baseline {given!r} "
            f"is not one of {', '.join(known)}; use another estimator for it"
        )


def need_corrupted_prompts(estimator: Estimator, task: Task) -> None:
    """Refuse a task without pairs."""
    if not task.paired:
        raise InputError(
            f"{task.name}: estimator {estimator.name!r} moves the inputs to the corrupted prompt, and the task has "
            "none; use another estimator, such as ig"
        )
