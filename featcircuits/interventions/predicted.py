"""Predictions: the effects of the moves that interventions make, by an estimator that does not run the edited model.

Interventions are a baseline like any other: they move nodes from their values in the clean run to new ones. So the
states of a batch get these moves in place of those to the corrupted run, and any estimator gives their effects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from featcircuits.dictionaries import Dictionary
from featcircuits.effects.direct import arcs_of, metric_gradients
from featcircuits.errors import InputError
from featcircuits.estimators import default_estimator, parse_estimator
from featcircuits.estimators.estimator import CoefficientEstimator, Estimator
from featcircuits.interventions.intervention import ATTENTION, DIRECT, NOTHING
from featcircuits.interventions.moves import Change, Given, changes_of
from featcircuits.interventions.parts import Part
from featcircuits.interventions.sources import Prompts
from featcircuits.model.nodes import Node
from featcircuits.model.sites import Site
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.baselines import Baseline
from featcircuits.states.contraction import SiteEffects, contract
from featcircuits.states.states import SiteState, States
from featcircuits.tasks.task import Task


def estimator_for(task: Task, held: str, estimator: str | Estimator | None) -> Estimator:
    """The estimator that was asked for, or one whose gradients hold what the run holds; checked for the task.

    Without anything held it is that of `fc.node_effects`; else RelP with the rules for patterns (`ah`) and norms (`ln`)
    alone. Raises `InputError` for an unknown estimator, and for one that the task has too little for.
    """
    if estimator is not None:
        chosen = parse_estimator(estimator)
    elif held == NOTHING:
        chosen = default_estimator(task)
    else:
        chosen = parse_estimator("relp:rules=ah" if held == ATTENTION else "relp:rules=ln+ah")
    chosen.check(task, baseline_of(task))
    return chosen


def check_edges(estimator: Estimator, held: str, downstream: Sequence[Node]) -> None:
    """Raise `InputError` for an estimator without edges where these make the prediction."""
    if (downstream or held == DIRECT) and not isinstance(estimator, CoefficientEstimator):
        raise InputError(f"estimator {str(estimator)!r} has no edges, which direct effects and downstream nodes need")


def baseline_of(task: Task) -> Baseline:
    """The baseline of the states whose moves are replaced."""
    return "paired" if task.paired else "zero"


def moved_states(
    spliced: SplicedModel, states: States, prompts: Prompts, parts: Sequence[Part], given: Given
) -> States:
    """The states of a batch in which the parts' moves take the place of those to the baseline.

    What moves along a direction, or with a whole site, is counted as a move of the error.
    """
    sites = {}
    for site, state in states.sites.items():
        here = [part for part in parts if part.site == site]
        dictionary = spliced.dictionaries[site]
        changes = changes_of(here, dictionary, state.x, state.read, prompts.frame, given) if here else []
        sites[site] = _moved(state, dictionary, changes)
    return replace(states, sites=sites)


def _moved(state: SiteState, dictionary: Dictionary, changes: Sequence[Change]) -> SiteState:
    n = max(1, dictionary.n_features)
    of_features = [change for change in changes if change.part.feature is not None]
    key_change = [change.at * n + (change.part.feature or 0) for change in of_features]
    before = state.row * n + state.feature
    keys = torch.cat([before, *key_change]).unique()

    def spread(column: Tensor) -> Tensor:
        return column.new_zeros(len(keys)).index_copy_(0, torch.searchsorted(keys, before), column)

    change = torch.zeros(len(keys), dtype=state.change.dtype, device=keys.device)
    for key, one in zip(key_change, of_features, strict=True):
        change.index_add_(0, torch.searchsorted(keys, key), one.change.to(change.dtype))
    error = torch.zeros_like(state.error_change).flatten(0, 1)
    for one in changes:
        if one.part.feature is None:
            error.index_add_(0, one.at, one.written.to(error.dtype))
    row, feature = keys // n, keys % n
    active = torch.zeros_like(keys, dtype=torch.bool)
    active[torch.searchsorted(keys, before)] = state.active
    written = dictionary.write(state.scaled(change, row), row, feature, len(error))
    return replace(
        state,
        x_change=(error + written.to(error.dtype)).view_as(state.x_change),
        error_change=error.view_as(state.error_change),
        row=row,
        feature=feature,
        value=spread(state.value),
        change=change,
        active=active,
    )


def predicted(spliced: SplicedModel, states: States, estimator: Estimator, held: str) -> Tensor:
    """The predicted change of F [example]: minus the sum of all nodes' effects on m, or of their edges to the metric.

    If only direct effects are left (`held`), only edges to the metric count.
    """
    effects = _to_metric(spliced, states, estimator) if held == DIRECT else estimator.effects(spliced, states)
    total = torch.zeros_like(states.metric_clean, dtype=torch.float64)
    for site, own in effects.items():
        row = states.sites[site].row // states.sites[site].slots
        total.index_add_(0, row, own.features.detach().double())
        total += own.errors.detach().double().sum(-1)
    return -total


def _to_metric(spliced: SplicedModel, states: States, estimator: Estimator) -> Mapping[Site, SiteEffects]:
    assert isinstance(estimator, CoefficientEstimator)  # checked before any run
    coefficients = estimator.coefficients(spliced, states)
    with estimator.propagation(spliced, states) as between:
        direct = metric_gradients(spliced, between, coefficients, arcs_of(spliced))
        return {site: contract(states.sites[site], spliced, site, own) for site, own in direct.items()}
