"""Exact edge effects by path patching (Goldowsky-Dill et al. 2023): the ground truth for edges.

    E(u -> d) = m(x | d moves by what u alone directly changes in it) - m(x)

In a first run the upstream node takes its patched value and every other spliced site before the
downstream one is held at its clean value. The downstream node then reads what arrives at its site: a
feature through its encoder with its gate, an error as what the features leave over. In a second run the
downstream node moves by the difference, and everything after it is computed again. Paths through
sites without a dictionary belong to the edge (see `featcircuits.model.connections`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.dictionaries.decomposition import moved_between, rewired
from featcircuits.effects.ends import NodeSet, Occurrences
from featcircuits.effects.products import Edges
from featcircuits.estimators.exact import patched_metric
from featcircuits.model.connections import Connection, Through
from featcircuits.model.sites import Site
from featcircuits.model.tokens import Tokens
from featcircuits.splicing.memory import rows_at_once
from featcircuits.splicing.spliced import ReadingEdit, SplicedModel, Start
from featcircuits.splicing.starts import start_at
from featcircuits.states.states import SiteState, States
from featcircuits.states.tally import pieces

_NUMBERS = 1 << 24
"""The most numbers in the features of one piece."""


class Arrivals(NamedTuple):
    """What arrives at a site from sources: from which source, at which row, and how it moves x there."""

    source: Tensor
    row: Tensor
    node: Tensor
    vector: Tensor


def batch_exact_edges(
    spliced: SplicedModel, states: States, nodes: NodeSet, arcs: Iterable[Connection], max_rows: int
) -> Iterator[tuple[Connection, Edges]]:
    """The effects of every edge among the nodes, and from them to the metric, in one batch."""
    for arc in arcs:
        sources, vectors = _moving(spliced, states, nodes, arc.upstream)
        targets = None if arc.downstream is None else nodes.occurrences(states, arc.downstream)
        if targets is not None and not len(targets.row):
            continue
        for part in pieces(torch.arange(len(vectors), device=vectors.device), _piece(spliced, states, arc, max_rows)):
            u = Occurrences(sources.row[part], sources.node[part])
            if arc.downstream is None or targets is None:
                yield arc, _metric_edges(spliced, states, arc.upstream, u, vectors[part])
            else:
                arrivals = _arrivals(spliced, states, arc, u, vectors[part], targets)
                yield arc, _edges_of(spliced, states, arc.downstream, u, arrivals, max_rows)


def _piece(spliced: SplicedModel, states: States, arc: Connection, max_rows: int) -> int:
    """How many sources one forward pass takes, given the dense features of the downstream site."""
    slots = states.batch.clean.ids.shape[1]
    width = 1 if arc.downstream is None else spliced.dictionaries[arc.downstream].n_features + 1
    return rows_at_once(spliced, slots, max(1, min(max_rows, _NUMBERS // (slots * width))))


def _moving(spliced: SplicedModel, states: States, nodes: NodeSet, site: Site) -> tuple[Occurrences, Tensor]:
    """The occurrences of nodes that patching moves, and the move of x [n, width] when each takes its patched value."""
    state, dictionary = states.sites[site], spliced.dictionaries[site]
    at = nodes.occurrences(states, site)
    vectors = state.error_change.flatten(0, 1)[at.row]

    features = (at.node < dictionary.n_features).nonzero()[:, 0]
    if len(features):
        row, feature = at.row[features], at.node[features]
        entries = nodes.index.numbers(site, state.row, state.feature)
        step = _steps(state, entries, nodes.index.numbers(site, row, feature))
        vectors[features] = dictionary.decoder_rows(feature) * step[:, None]

    moving = (vectors != 0).any(-1).nonzero()[:, 0]
    return Occurrences(at.row[moving], at.node[moving]), vectors[moving]


def _steps(state: SiteState, entries: Tensor, wanted: Tensor) -> Tensor:
    """The state's `step` at the wanted ones of its sorted `entries`; 0 for those that are not among them.

    A feature that is active in neither run has no entry and does not move.
    """
    if not len(entries):
        return state.change.new_zeros(len(wanted))
    entry = torch.searchsorted(entries, wanted).clamp(max=len(entries) - 1)
    return torch.where(entries[entry] == wanted, state.step[entry], 0.0)


class _Held(NamedTuple):
    """A run in which `site` moves and all other nodes are held fixed, while a bypass passes on what arrives."""

    tokens: Tokens
    edit: ReadingEdit
    start: Start | None


def _held(spliced: SplicedModel, states: States, site: Site, rows: Tensor, vectors: Tensor) -> _Held:
    slots = states.sites[site].slots
    example, slot = rows // slots, rows % slots
    each = torch.arange(len(rows), device=rows.device)

    def hold(at: Site, x: Tensor, read: Tensor) -> Tensor:
        state = states.sites[at]
        value = rewired(spliced.dictionaries[at], state.x[example], state.read[example], read)
        if at == site:
            value[each, slot] += vectors.to(value.dtype)
        return value

    start = start_at(site, lambda stream: states.streams[stream][example], lambda at, x: hold(at, x, x))
    return _Held(states.batch.clean.select(example), hold, start)


@torch.no_grad()
def _metric_edges(spliced: SplicedModel, states: States, site: Site, at: Occurrences, vectors: Tensor) -> Edges:
    held, example = _held(spliced, states, site, at.row, vectors), at.row // states.sites[site].slots
    logits = spliced.run_reading(held.tokens, held.edit, start=held.start, answers_only=True)
    value = states.objective.select(example)(logits) - states.metric_clean[example]
    return Edges(at.row, torch.zeros_like(at.row), at.row, at.node, value)


@torch.no_grad()
def _arrivals(
    spliced: SplicedModel, states: States, arc: Connection, sources: Occurrences, vectors: Tensor, targets: Occurrences
) -> Arrivals:
    """How each source moves each target of its example, for the pairs that move."""
    assert arc.downstream is not None
    state, dictionary = states.sites[arc.downstream], spliced.dictionaries[arc.downstream]
    slots = state.slots
    example, slot = sources.row // slots, sources.row % slots

    # the first run: what arrives at the downstream site when the source alone moves
    if arc.through == Through.SKIP and not dictionary.transcodes:
        x = state.x[example]
        x[torch.arange(len(slot), device=x.device), slot] += vectors.to(x.dtype)
        read = x
    else:
        held = _held(spliced, states, arc.upstream, sources.row, vectors)
        x, read = spliced.run_until(held.tokens, arc.downstream, held.edit, start=held.start)
    change = moved_between(dictionary, state.x[example], state.read[example], x, read)

    # from which each target of the example reads its part
    source, target = (example[:, None] == targets.row // slots).nonzero(as_tuple=True)
    row, node = targets.row[target], targets.node[target]
    vector = change.error[source, row % slots]
    if dictionary.n_features:
        feature = node.clamp(max=dictionary.n_features - 1)
        written = dictionary.decoder_rows(feature) * change.steps[source, row % slots, feature][:, None]
        vector = torch.where((node == dictionary.n_features)[:, None], vector, written)

    moves = (vector != 0).any(-1)
    return Arrivals(source[moves], row[moves], node[moves], vector[moves])


def _edges_of(
    spliced: SplicedModel, states: States, site: Site, sources: Occurrences, arrivals: Arrivals, max_rows: int
) -> Edges:
    """The second run: each target moves by what arrives from one source, and everything after it is computed again."""
    values = [
        patched_metric(spliced, states, site, arrivals.row[part], arrivals.vector[part])
        for part in pieces(torch.arange(len(arrivals.row), device=arrivals.row.device), max_rows)
    ]
    value = torch.cat(values) if values else arrivals.vector.new_zeros(0)
    return Edges(arrivals.row, arrivals.node, sources.row[arrivals.source], sources.node[arrivals.source], value)
