"""Conductance (Dhamdhere et al. 2018): the part of the inputs' integrated gradients that flows through each node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.dictionaries import Dictionary
from featcircuits.dictionaries.decomposition import wide
from featcircuits.estimators.estimator import Estimator, Linearised, need_baseline
from featcircuits.estimators.quadrature import MOST_STEPS, check_quadrature, points
from featcircuits.inputs.ranges import ranged
from featcircuits.model.sites import EMBED, Site
from featcircuits.splicing.gradients import gradients
from featcircuits.splicing.hooks import editing
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.baselines import DENSE_NUMBERS, Baseline, patched_by_run
from featcircuits.states.contraction import SiteEffects, contract_all, nodewise
from featcircuits.states.states import SiteState, States
from featcircuits.states.tally import pieces
from featcircuits.tasks.task import Task


class _Along(NamedTuple):
    """A site at a point of the path.

    `x`: the activation [example, slot, width]; `read`: what its dictionary encodes; `written`: what its nodes write;
    `features`: the features of its entries [n].
    """

    x: Tensor
    read: Tensor
    written: Tensor
    features: Tensor


class _Step(NamedTuple):
    """A point of the path with dm/dx there, and the states with each node's increment around it as its change."""

    move: Tensor
    slopes: Mapping[Site, Tensor]
    moved: States


@dataclass(frozen=True)
class Conductance(Estimator):
    """effect = sum over the path of dm/dnode times the node's own increment.

    The path is that of `ig-inputs`: the embeddings move from the clean prompt to the corrupted one. There
    every point uses each site's whole change; here each node moves as it does in those runs, so the
    effects of all nodes of a full cut approach m(corrupted) - m(clean) as the number of points grows. Features
    that are active only inside the path count as error.

    An edge is the part of the increment that goes through one direct connection at each point: edges out of a node
    add up to its conductance, at any number of points.
    """

    has_edges = True

    steps: int = ranged(5, 1, MOST_STEPS)
    quadrature: str = "gauss"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_quadrature(self.quadrature, self.steps)

    def check(self, task: Task, baseline: Baseline) -> None:
        """Raise `InputError` for a task without pairs."""
        need_baseline(self, baseline, "paired")

    def effects(self, spliced: SplicedModel, states: States) -> dict[Site, SiteEffects]:
        """The conductance of every node, by site."""

        def added(totals: dict[Site, SiteEffects], step: _Step) -> dict[Site, SiteEffects]:
            own = contract_all(step.moved, spliced, step.slopes)
            return {site: nodewise(torch.add, totals[site], one) if totals else one for site, one in own.items()}

        totals = reduce(added, self._steps(spliced, states), {})
        return {site: total._replace(coefficient=None) for site, total in totals.items()}

    def linearised(
        self, spliced: SplicedModel, states: States, coefficients: Mapping[Site, Tensor] | None = None
    ) -> Iterator[Linearised]:
        """The run at every point of the path, in which each node changes by its increment."""
        for step in self._steps(spliced, states):
            at = _along(spliced, states, step.move)
            sites = {
                site: _at_point(spliced.dictionaries[site], state, at[site]) for site, state in step.moved.sites.items()
            }
            moving = editing(
                spliced.architecture, spliced.model, spliced.device, [EMBED], lambda _, x, by=step.move: x + by
            )
            with moving:
                yield Linearised(replace(states, sites=sites), step.slopes)

    def _steps(self, spliced: SplicedModel, states: States) -> Iterator[_Step]:
        assert states.batch.corrupted is not None
        embed = spliced.architecture.module(spliced.model, EMBED)
        with torch.no_grad():
            move = embed(states.batch.corrupted.ids) - embed(states.batch.clean.ids)
        path = points(self.quadrature, self.steps)
        before = _along(spliced, states, 0 * move)
        for (alpha, _), end in zip(path, accumulate(weight for _, weight in path), strict=True):
            after = _along(spliced, states, end * move)
            slopes = gradients(
                spliced, states.batch.clean, states.objective, spliced.sites,
                edit=lambda _, x, alpha=alpha: x + alpha * move, edited=[EMBED],
            )  # fmt: skip
            moved = {
                site: _moved(spliced.dictionaries[site], state, before[site], after[site])
                for site, state in states.sites.items()
            }
            yield _Step(alpha * move, slopes, replace(states, sites=moved))
            before = after


def _along(spliced: SplicedModel, states: States, move: Tensor) -> dict[Site, _Along]:
    """Every site in a run with moved embeddings."""
    seen: dict[Site, Tensor] = {}

    def keep(site: Site, x: Tensor) -> Tensor:
        seen[site] = x + move if site == EMBED else x
        return seen[site]

    with torch.no_grad():
        spliced.run(states.batch.clean, keep, sites=spliced.with_reads({EMBED, *spliced.sites}), answers_only=True)
    return {site: _site_along(spliced, site, state, seen) for site, state in states.sites.items()}


def _site_along(spliced: SplicedModel, site: Site, state: SiteState, seen: Mapping[Site, Tensor]) -> _Along:
    run, dictionary = patched_by_run(spliced, site, seen), spliced.dictionaries[site]
    assert run.x is not None
    features = torch.empty_like(state.change)
    rows, inverse = state.row.unique(return_inverse=True)
    size = max(1, DENSE_NUMBERS // max(1, dictionary.n_features))
    for part in pieces(torch.arange(len(rows), device=rows.device), size):
        entries = ((inverse >= part[0]) & (inverse <= part[-1])).nonzero()[:, 0]
        dense = run.features_at(dictionary, rows[part])
        features[entries] = dense[inverse[entries] - part[0], state.feature[entries]].to(features.dtype)
    return _Along(seen[site], seen[spliced.read_site(site)], wide(run.x), features)


def _moved(dictionary: Dictionary, state: SiteState, before: _Along, after: _Along) -> SiteState:
    """The state of the site as if patching changed it by this increment."""
    state = replace(state, change=after.features - before.features, x_change=after.written - before.written)
    explained = dictionary.write(state.step, state.row, state.feature, state.x.shape[:2].numel())
    return replace(state, error_change=state.x_change - explained.view(state.x_change.shape))


def _at_point(dictionary: Dictionary, moved: SiteState, at: _Along) -> SiteState:
    """The state of the site in the run at a point of the path; its changes stay."""
    return replace(moved, x=at.x, read=at.read, value=at.features, active=dictionary.is_active(at.features))
