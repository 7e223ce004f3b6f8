"""Edges of an estimator by backward passes, in one batch: between nodes, and from nodes to the metric."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from featcircuits.effects.direct import batch_edges, metric_gradients
from featcircuits.effects.ends import Ends, ends_above
from featcircuits.effects.products import Edges
from featcircuits.estimators.estimator import Estimator
from featcircuits.model.connections import Connection
from featcircuits.model.sites import Site
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.contraction import contract, contract_all
from featcircuits.states.states import States


def strong_ends(
    spliced: SplicedModel,
    states: States,
    estimator: Estimator,
    coefficients: Mapping[Site, Tensor] | None,
    threshold: float,
) -> Callable[[States], Ends]:
    """states -> the ends whose effect exceeds the threshold."""
    known = coefficients is not None
    effects = contract_all(states, spliced, coefficients) if known else estimator.effects(spliced, states)
    return partial(ends_above, effects, threshold)


def estimated_edges(
    spliced: SplicedModel,
    states: States,
    estimator: Estimator,
    coefficients: Mapping[Site, Tensor] | None,
    ends_at: Callable[[States], Ends],
    arcs: list[Connection],
) -> Iterator[tuple[Connection, Edges]]:
    """Every edge between the ends and to the metric, added up over the runs that the estimator differentiates.

    `ends_at`: the ends in a run, since what is active, and so can be a target, differs between runs.
    """
    transcoders = {site for site, dictionary in spliced.dictionaries.items() if dictionary.transcodes}
    without_errors = transcoders if estimator.through_features else set()
    for at, slopes in estimator.linearised(spliced, states, coefficients):
        ends = {
            site: end.without_target_errors() if site in without_errors else end for site, end in ends_at(at).items()
        }
        yield from batch_edges(spliced, at, slopes, ends, arcs, estimator.holds_attention)
        yield from _metric_edges(spliced, at, slopes, ends, arcs)


def _metric_edges(
    spliced: SplicedModel,
    states: States,
    coefficients: Mapping[Site, Tensor],
    ends: Ends,
    arcs: list[Connection],
) -> Iterator[tuple[Connection, Edges]]:
    """The edges into the metric, whose "row" and "node" are 0."""
    direct = metric_gradients(spliced, states, coefficients, arcs)
    for arc in arcs:
        if arc.downstream is not None:
            continue
        state, chosen = states.sites[arc.upstream], ends[arc.upstream]
        effects = contract(state, spliced, arc.upstream, direct[arc.upstream])
        error_row = (chosen.source_errors & (states.batch.places.flatten() >= 0)).nonzero()[:, 0]
        n_features = spliced.dictionaries[arc.upstream].n_features
        row = torch.cat([state.row[chosen.source_entries], error_row])
        node = torch.cat([state.feature[chosen.source_entries], torch.full_like(error_row, n_features)])
        value = torch.cat([effects.features[chosen.source_entries], effects.errors.flatten()[error_row]])
        yield arc, Edges(row, torch.zeros_like(row), row, node, value)
