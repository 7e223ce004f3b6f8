"""AtP* (Kramar et al. 2024) for features, and its extension to every first-hop reader.

A feature is neither a query nor a key, but later attentions read it as both. So the part of its AtP effect
that passes queries and keys directly is replaced by a finite change: norm, query, key
and softmax are computed again for the moved stream, and only what follows is linear.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from featcircuits.estimators.estimator import Estimator
from featcircuits.estimators.first_hop import FirstHop, Moves, Readers, first_hop, in_stream, read_clean
from featcircuits.estimators.writes import reads, writes
from featcircuits.model.sites import Site
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.contraction import SiteEffects
from featcircuits.states.states import SiteState, States
from featcircuits.states.tally import pieces

Effect = Callable[[Readers, Moves, FirstHop], Tensor]
"""(clean run, moves, first-hop effects) -> effects [term, n]."""

NODES = 256
"""The most nodes of one forward pass, which has one token per node."""


@dataclass(frozen=True)
class QueryKeyFix(Estimator):
    """AtP with a finite change on the direct path through queries and keys (both moved together)."""

    def effects(self, spliced: SplicedModel, states: States) -> dict[Site, SiteEffects]:
        """AtP's effects with the query-key fix, by site."""
        readers = read_clean(spliced, states)
        return _by_site(spliced, states, readers, _fixed(spliced, states), lambda _, x: x[0])


@dataclass(frozen=True)
class AtPStar(Estimator):
    """The query-key fix under GradDrop: |effect| = mean over terms of |fixed effect|, with the plain effect's sign.

    The terms are those of `GradDrop`: one that drops nothing, and one per later attention or MLP write.
    """

    def effects(self, spliced: SplicedModel, states: States) -> dict[Site, SiteEffects]:
        """The mean |fixed effect| over terms, with the sign of the plain one, by site."""
        dropped = writes(spliced)
        readers = read_clean(spliced, states, (None, *dropped))

        def mean_size(site: Site, terms: Tensor) -> Tensor:
            counted = [0, *(1 + number for number, write in enumerate(dropped) if reads(spliced, write, site))]
            size = terms[counted].abs().mean(0)
            return torch.where(terms[0] < 0, -size, size)

        return _by_site(spliced, states, readers, _fixed(spliced, states), mean_size)


@dataclass(frozen=True)
class FiniteFirstHop(Estimator):
    """Finite changes through every first-hop reader (attention, MLPs, final norm and unembedding), then linear.

    This extension of the fix is ours, not the paper's.
    """

    def effects(self, spliced: SplicedModel, states: States) -> dict[Site, SiteEffects]:
        """The effects with finite first hops, by site."""
        readers = read_clean(spliced, states)

        def effect(readers: Readers, moves: Moves, hop: FirstHop) -> Tensor:
            return hop.attention + hop.mlp + hop.metric

        return _by_site(spliced, states, readers, effect, lambda _, x: x[0])


def _fixed(spliced: SplicedModel, states: States) -> Effect:
    """The linear effect, with its direct part through queries and keys replaced by the finite one."""

    def effect(readers: Readers, moves: Moves, hop: FirstHop) -> Tensor:
        terms = []
        for term in readers.terms:
            coefficient = term.sites[moves.site].flatten(0, 1)[moves.row]
            for layer, through in enumerate(term.through_pattern):
                if reads(spliced, Site(layer, "attn"), moves.site):
                    coefficient = coefficient - through.flatten(0, 1)[moves.row]
            terms.append((coefficient.to(moves.vector.dtype) * moves.vector).sum(-1))
        return torch.stack(terms) + hop.pattern

    return effect


def _by_site(
    spliced: SplicedModel,
    states: States,
    readers: Readers,
    effect: Effect,
    combine: Callable[[Site, Tensor], Tensor],
) -> dict[Site, SiteEffects]:
    """The effects of all feature entries and errors, `NODES` nodes at a time. `combine`: [term, n] -> [n]."""

    def of(moves: Moves) -> Tensor:
        moves = in_stream(spliced, states, moves)
        return combine(moves.site, effect(readers, moves, first_hop(spliced, states, readers, moves)))

    return {site: _of_site(spliced, site, state, of) for site, state in states.sites.items()}


def _of_site(spliced: SplicedModel, site: Site, state: SiteState, of: Callable[[Moves], Tensor]) -> SiteEffects:
    """Effects of a site's nodes; those that do not change have none."""
    features, dictionary = torch.zeros_like(state.change), spliced.dictionaries[site]
    for part in pieces((state.change != 0).nonzero()[:, 0], NODES):
        vectors = dictionary.decoder_rows(state.feature[part]) * state.step[part, None]
        features[part] = of(Moves(site, state.row[part], vectors)).to(features.dtype)

    error_change = state.error_change.flatten(0, 1)
    errors = torch.zeros_like(error_change[:, 0])
    for part in pieces((error_change != 0).any(-1).nonzero()[:, 0], NODES):
        errors[part] = of(Moves(site, part, error_change[part])).to(errors.dtype)
    return SiteEffects(features, errors.view(state.x.shape[:2]))
