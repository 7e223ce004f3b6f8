"""Direct connections of one batch: a forward cut at every site, and products through the pieces.

In the cut forward each site's activation is replaced by an equal leaf, so that a vector-Jacobian
product from one site stops at the sites before it and sees direct connections alone, whatever the
architecture. A connection that passes only the skip has an identity Jacobian and needs no
backward pass. For the others one batched product serves a downstream node of every example at
once, and through an MLP, where positions do not mix, one of every position of every example.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.dictionaries import Dictionary
from featcircuits.effects.targets import Selection, SiteSelection
from featcircuits.model.connections import Connection, Through, connections
from featcircuits.model.sites import Site
from featcircuits.splicing.spliced import SplicedModel, frozen
from featcircuits.states.states import SiteState, States

_NUMBERS = 1 << 24
"""How many numbers one batched backward or one gather may hold."""


class Edges(NamedTuple):
    """Edges of one connection in one batch, as columns: rows are example * slots + slot."""

    target_row: Tensor
    target_node: Tensor
    source_row: Tensor
    source_node: Tensor
    value: Tensor


class _Arrival(NamedTuple):
    """A site's activation, and what its dictionary reads where that is another one."""

    x: Tensor
    read: Tensor | None


class _Cut(NamedTuple):
    """`incoming`: what arrives at each site, as a function of the `leaves` before it."""

    incoming: Mapping[Site, _Arrival]
    leaves: Mapping[Site, Tensor]
    metric: Tensor


class _Targets(NamedTuple):
    """Downstream nodes with the gradients that each sends back to its site's activation, and to what is read."""

    row: Tensor
    node: Tensor
    seed: Tensor
    read_seed: Tensor | None


def batch_edges(
    spliced: SplicedModel,
    states: States,
    coefficients: Mapping[Site, Tensor],
    selection: Selection,
    arcs: Sequence[Connection],
) -> Iterator[tuple[Connection, Edges]]:
    """Every edge among the selected nodes of one batch, connection by connection."""
    with torch.enable_grad(), frozen(spliced.model):
        cut = cut_forward(spliced, states)
        for site in spliced.sites:
            into = [arc for arc in arcs if arc.downstream == site]
            if not into:
                continue
            targets = targets_of(spliced.dictionaries[site], states.sites[site], coefficients[site], selection[site])
            for arc, part, table, index in pulled_back(cut, into, targets):
                at = (targets.row[part], targets.node[part])
                source = (spliced.dictionaries[arc.upstream], states.sites[arc.upstream], selection[arc.upstream])
                yield from ((arc, edges) for edges in _contract(arc.through, *at, table, index, *source))


def metric_gradients(
    spliced: SplicedModel, states: States, coefficients: Mapping[Site, Tensor], arcs: Sequence[Connection]
) -> dict[Site, Tensor]:
    """The coefficient of each site's direct connection to the metric.

    A site that nothing but the metric reads has the node's whole effect there, so the estimator's
    own coefficient; for others it is the clean run's direct gradient.
    """
    to_metric = [arc.upstream for arc in arcs if arc.downstream is None]
    read_by_sites = {arc.upstream for arc in arcs if arc.downstream is not None}
    found = {site: coefficients[site] for site in to_metric if site not in read_by_sites}
    others = [site for site in to_metric if site in read_by_sites]
    if others:
        with torch.enable_grad(), frozen(spliced.model):
            cut = cut_forward(spliced, states)
            direct = torch.autograd.grad(cut.metric.sum(), [cut.leaves[site] for site in others])
        found |= dict(zip(others, direct, strict=True))
    return found


def arcs_of(spliced: SplicedModel) -> list[Connection]:
    """Every direct connection of the model's sites."""
    bypassed = [site for site, dictionary in spliced.dictionaries.items() if dictionary.has_bypass]
    return connections(spliced.sites, spliced.architecture.n_layers, spliced.architecture.sequential, bypassed)


def cut_forward(spliced: SplicedModel, states: States) -> _Cut:
    incoming: dict[Site, _Arrival] = {}
    leaves: dict[Site, Tensor] = {}

    def cut(site: Site, x: Tensor, read: Tensor) -> Tensor:
        dictionary = spliced.dictionaries[site]
        incoming[site] = _Arrival(x, read if dictionary.transcodes else None)
        leaves[site] = x.detach().requires_grad_()
        if not dictionary.has_bypass:
            return leaves[site]
        past = dictionary.bypass(read.to(states.sites[site].change.dtype))
        assert past is not None
        # the wire past the features: no change of value, a way for the gradient
        return leaves[site] + (past - past.detach()).to(x.dtype)

    logits = spliced.run_reading(states.batch.clean, cut, answers_only=True)
    return _Cut(incoming, leaves, states.objective(logits))


def targets_of(dictionary: Dictionary, state: SiteState, coefficient: Tensor, chosen: SiteSelection) -> _Targets:
    """Features send back their gradient along their encoder row, errors what features and bypass leave over."""
    flat, reads = (t.flatten(0, 1).to(state.change.dtype) for t in (coefficient, state.read))
    error_row = chosen.target_errors.nonzero()[:, 0]
    beside_error = chosen.target_errors[state.row] & state.active
    entries = (chosen.target_entries | beside_error).nonzero()[:, 0]
    row, feature = state.row[entries], state.feature[entries]
    at_feature = state.scaled(dictionary.gradient_at(flat, row, feature), row)
    read = dictionary.pull(reads[row], at_feature[:, None] * dictionary.encoder_rows(feature))
    explained = torch.zeros_like(reads).index_add_(0, row, read * beside_error[entries, None])[error_row]
    target = chosen.target_entries[entries]
    rows = torch.cat([row[target], error_row])
    nodes = torch.cat([feature[target], torch.full_like(error_row, dictionary.n_features)])
    past = dictionary.pull_bypass(flat[error_row])
    explained = explained if past is None else explained + past
    if not dictionary.transcodes:
        return _Targets(rows, nodes, torch.cat([read[target], flat[error_row] - explained]), None)
    written = torch.cat([flat.new_zeros(int(target.sum()), flat.shape[1]), flat[error_row]])
    return _Targets(rows, nodes, written, torch.cat([read[target], -explained]))


def pulled_back(
    cut: _Cut, into: Sequence[Connection], targets: _Targets
) -> Iterator[tuple[Connection, Tensor, Tensor, Tensor]]:
    """(connection, which targets, table, index): the seeds pulled back to the upstream site.

    Target t's product at upstream row r is table[index[t] + r], or table[index[t]] for a skip.
    """
    everything = torch.arange(len(targets.row), device=targets.row.device)
    through = max(arc.through for arc in into)
    for arc in into:
        if arc.through == Through.SKIP and len(everything):
            yield arc, everything, targets.seed, everything
    inner = [arc for arc in into if arc.through > Through.SKIP]
    if not inner or not len(everything):
        return
    incoming = cut.incoming[inner[0].downstream]  # type: ignore[index]
    arrived = [incoming.x] if incoming.read is None else [incoming.x, incoming.read]
    n_rows, slots = incoming.x.shape[:2].numel(), incoming.x.shape[1]
    # each backward carries one target per example, or per row where positions do not mix
    turn = _turn(targets.row if through == Through.MLP else targets.row // slots)
    per_run = max(1, _NUMBERS // sum(x.numel() for x in arrived))
    for first in range(0, int(turn.max()) + 1, per_run):
        part = ((turn >= first) & (turn < first + per_run)).nonzero()[:, 0]
        count = int(turn[part].max()) + 1 - first
        index = (turn[part] - first) * n_rows
        seeds = []
        for x, seed in zip(arrived, (targets.seed, targets.read_seed), strict=False):
            assert seed is not None
            seeds.append(x.new_zeros(count * n_rows, x.shape[-1]))
            seeds[-1][index + targets.row[part]] = seed[part].to(x.dtype)
        pulled = torch.autograd.grad(
            arrived,
            [cut.leaves[arc.upstream] for arc in inner],
            grad_outputs=[seed.view(count, *x.shape) for seed, x in zip(seeds, arrived, strict=True)],
            is_grads_batched=True,
            retain_graph=True,
        )
        for arc, product in zip(inner, pulled, strict=True):
            yield arc, part, product.flatten(0, 2).to(targets.seed.dtype), index


def _turn(group: Tensor) -> Tensor:
    """0, 1, 2, ... within each group, in order."""
    order = group.argsort(stable=True)
    first = torch.searchsorted(group[order].contiguous(), group[order].contiguous())
    turn = torch.empty_like(group)
    turn[order] = torch.arange(len(group), device=group.device) - first
    return turn


def _contract(
    through: Through,
    target_row: Tensor,
    target_node: Tensor,
    table: Tensor,
    index: Tensor,
    dictionary: Dictionary,
    state: SiteState,
    chosen: SiteSelection,
) -> Iterator[Edges]:
    """Products times the upstream changes, for each pair of a target and a source that it reads."""
    slots = state.slots if through == Through.ATTENTION else 1

    def vectors(target: Tensor, row: Tensor) -> Tensor:
        return table[index[target] + (0 if through == Through.SKIP else row)]

    entry = (chosen.source_entries & (state.change != 0)).nonzero()[:, 0]
    for t, e in _pairs(target_row // slots, state.row[entry] // slots, table.shape[-1]):
        row, feature = state.row[entry[e]], state.feature[entry[e]]
        at = index[t] + (0 if through == Through.SKIP else row)
        value = dictionary.gradient_at(table, at, feature) * state.step[entry[e]]
        yield _nonzero(Edges(target_row[t], target_node[t], row, feature, value))
    error = state.error_change.flatten(0, 1)
    error_row = (chosen.source_errors & (error != 0).any(-1)).nonzero()[:, 0]
    for t, e in _pairs(target_row // slots, error_row // slots, table.shape[-1]):
        row = error_row[e]
        value = (vectors(t, row) * error[row]).sum(-1)
        node = torch.full_like(row, dictionary.n_features)
        yield _nonzero(Edges(target_row[t], target_node[t], row, node, value))


def _pairs(group: Tensor, other: Tensor, width: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All (i, j) with group[i] == other[j], in pieces; `other` is sorted."""
    first = torch.searchsorted(other, group)
    count = torch.searchsorted(other, group, right=True) - first
    ends = count.cumsum(0)
    limit, begin = max(1, _NUMBERS // width), 0
    while begin < len(group):
        done = int(ends[begin - 1]) if begin else 0
        end = max(begin + 1, int(torch.searchsorted(ends, done + limit, right=True)))
        i = torch.arange(begin, end, device=group.device).repeat_interleave(count[begin:end])
        within = torch.arange(len(i), device=group.device) - (ends[i] - count[i] - done)
        yield i, first[i] + within
        begin = end


def _nonzero(edges: Edges) -> Edges:
    kept = edges.value != 0
    return Edges(*(column[kept] for column in edges))
