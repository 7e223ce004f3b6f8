"""Exact edge effects by path patching (Goldowsky-Dill et al. 2023): the ground truth for edges.

    E(u -> d) = m(x | d moves by what u alone brings it directly) - m(x)

In a first run the upstream node takes its patched value, every other spliced site before the
downstream one is held at its clean value, and what arrives at the downstream site is read there: a
feature by its encoder, gate and all, an error as what the features leave over. In a second run the
downstream node moves by that difference and everything after it is computed anew. Paths through
sites without a dictionary belong to the edge (see `featcircuits.model.connections`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.dictionaries.decomposition import moved_between, rewired
from featcircuits.effects.direct import Edges
from featcircuits.effects.targets import NodeSet
from featcircuits.estimators.exact import patched_metric
from featcircuits.model.connections import Connection, Through
from featcircuits.model.sites import Site
from featcircuits.model.tokens import Tokens
from featcircuits.splicing.spliced import ReadingEdit, SplicedModel, Start
from featcircuits.states.states import States
from featcircuits.states.tally import pieces

_NUMBERS = 1 << 24
"""How many numbers the features of one piece may be."""


class Occurrences(NamedTuple):
    """Nodes of a site in a batch: `row` = example * slots + slot; `node` n_features is the error."""

    row: Tensor
    node: Tensor


class Moves(NamedTuple):
    """What sources bring to a site: the source of each move, where it lands, and the move of x there."""

    source: Tensor
    row: Tensor
    node: Tensor
    vector: Tensor


def batch_exact_edges(
    spliced: SplicedModel, states: States, nodes: NodeSet, arcs: Iterable[Connection], max_rows: int
) -> Iterator[tuple[Connection, Edges]]:
    """Every edge among the nodes, and from them to the metric, in one batch."""
    found = {site: nodes.occurrences(states, site) for site in spliced.sites}
    for arc in arcs:
        sources = Occurrences(*found[arc.upstream])
        vectors = _source_moves(spliced, states, arc.upstream, sources)
        moving = (vectors != 0).any(-1).nonzero()[:, 0]
        targets = None if arc.downstream is None else Occurrences(*found[arc.downstream])
        if targets is not None and not len(targets.row):
            continue
        for part in pieces(moving, _piece(spliced, states, arc, max_rows)):
            at = Occurrences(sources.row[part], sources.node[part])
            if arc.downstream is None or targets is None:
                yield arc, _metric_edges(spliced, states, arc.upstream, at, vectors[part])
            else:
                moves = _arrivals(spliced, states, arc, at, vectors[part], targets)
                yield arc, _moved_edges(spliced, states, arc.downstream, at, moves, max_rows)


def _piece(spliced: SplicedModel, states: States, arc: Connection, max_rows: int) -> int:
    slots = states.batch.clean.ids.shape[1]
    width = 1 if arc.downstream is None else spliced.dictionaries[arc.downstream].n_features + 1
    return spliced.rows_at_once(slots, max(1, min(max_rows, _NUMBERS // (slots * width))))


def _source_moves(spliced: SplicedModel, states: States, site: Site, at: Occurrences) -> Tensor:
    """[n, width]: how x moves at each occurrence when its node takes its patched value."""
    state, dictionary = states.sites[site], spliced.dictionaries[site]
    vectors = state.error_change.flatten(0, 1)[at.row]
    features = (at.node < dictionary.n_features).nonzero()[:, 0]
    if not len(features):
        return vectors
    keys = state.row * (dictionary.n_features + 1) + state.feature
    wanted = at.row[features] * (dictionary.n_features + 1) + at.node[features]
    place = torch.searchsorted(keys, wanted).clamp(max=max(0, len(keys) - 1))
    step = torch.zeros_like(wanted, dtype=state.change.dtype)
    if len(keys):
        # a node that is active in neither run does not move
        step = torch.where(keys[place] == wanted, state.step[place], step)
    vectors[features] = dictionary.decoder_rows(at.node[features]) * step[:, None]
    return vectors


class _Held(NamedTuple):
    """A run in which `site` moves and all other nodes are held; a bypass is no node and goes on with what arrives."""

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

    start = spliced.start_at(site, lambda stream: states.streams[stream][example], lambda at, x: hold(at, x, x))
    return _Held(states.batch.clean.select(example), hold, start)


@torch.no_grad()
def _metric_edges(spliced: SplicedModel, states: States, site: Site, at: Occurrences, vectors: Tensor) -> Edges:
    held, example = _held(spliced, states, site, at.row, vectors), at.row // states.sites[site].slots
    logits = spliced.run_reading(held.tokens, held.edit, start=held.start, answers_only=True)
    value = states.objective.select(example)(logits) - states.metric_clean[example]
    return Edges(at.row, torch.zeros_like(at.row), at.row, at.node, value)


@torch.no_grad()
def _arrivals(
    spliced: SplicedModel, states: States, arc: Connection, at: Occurrences, vectors: Tensor, targets: Occurrences
) -> Moves:
    """How each source moves each target of its example, where it does."""
    assert arc.downstream is not None
    state, dictionary = states.sites[arc.downstream], spliced.dictionaries[arc.downstream]
    slots = state.slots
    clean, clean_read = state.x[at.row // slots], state.read[at.row // slots]
    if arc.through == Through.SKIP:
        x = clean.clone()
        x[torch.arange(len(at.row), device=x.device), at.row % slots] += vectors.to(x.dtype)
        read = x
    else:
        held = _held(spliced, states, arc.upstream, at.row, vectors)
        x, read = spliced.run_until(held.tokens, arc.downstream, held.edit, start=held.start)
    change = moved_between(dictionary, clean, clean_read, x, read)
    source, target = (at.row[:, None] // slots == targets.row // slots).nonzero(as_tuple=True)
    slot, node = targets.row[target] % slots, targets.node[target]
    is_error = node == dictionary.n_features
    feature = node.clamp(max=max(0, dictionary.n_features - 1))
    vector = change.error[source, slot]
    if dictionary.n_features:
        steps = change.steps[source, slot, feature]
        vector = torch.where(is_error[:, None], vector, dictionary.decoder_rows(feature) * steps[:, None])
    moves = (vector != 0).any(-1)
    return Moves(source[moves], targets.row[target][moves], node[moves], vector[moves])


def _moved_edges(
    spliced: SplicedModel, states: States, site: Site, at: Occurrences, moves: Moves, max_rows: int
) -> Edges:
    values = [
        patched_metric(spliced, states, site, moves.row[part], moves.vector[part])
        for part in pieces(torch.arange(len(moves.row), device=moves.row.device), max_rows)
    ]
    value = torch.cat(values) if values else moves.vector.new_zeros(0)
    return Edges(moves.row, moves.node, at.row[moves.source], at.node[moves.source], value)
