"""Direct connections of one batch: a forward pass cut at every site, and products through the pieces.

In the cut pass each site's activation is replaced by an equal leaf. So a vector-Jacobian
product from one site stops at the sites before it and contains only direct connections, in any
architecture. A connection that passes only the skip has an identity Jacobian and needs no
backward pass. For the others one batched product covers one downstream node of every example
and, through an MLP, where positions do not mix, one of every position of every example.

Symbols, in this module:

    c        the estimator's coefficient at the downstream site, dm/dx for gradients
    v_d      the part of c that a downstream node d passes back to where its site reads
    J        the Jacobian of one direct connection: of what is read there, with respect to the upstream x
    v_d J    a row of `Products`; the edge from u to d is v_d J . (change of x by u)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.dictionaries import Dictionary
from featcircuits.effects.ends import Ends, SiteEnds
from featcircuits.model.connections import Connection, Through, connections
from featcircuits.model.frozen import frozen
from featcircuits.model.sites import Site
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.states import SiteState, States

_NUMBERS = 1 << 24
"""The most numbers in one batched backward pass or one gather."""


class Edges(NamedTuple):
    """The edges of one connection in one batch, as columns; rows are example * slots + slot."""

    target_row: Tensor
    target_node: Tensor
    source_row: Tensor
    source_node: Tensor
    value: Tensor


class _Arrival(NamedTuple):
    """A site's activation, and what its dictionary reads, which may be the same."""

    x: Tensor
    read: Tensor


class _Cut(NamedTuple):
    """`incoming`: what arrives at each site, as a function of the `leaves` before it."""

    incoming: Mapping[Site, _Arrival]
    leaves: Mapping[Site, Tensor]
    metric: Tensor


class _Targets(NamedTuple):
    """Downstream nodes [n] of one site, with v_d [n, width] at what its dictionary reads."""

    row: Tensor
    node: Tensor
    v: Tensor


class Products(NamedTuple):
    """v_d J of some targets of one connection, at every upstream row (example * slots + slot) that they read."""

    connection: Connection
    slots: int
    target_row: Tensor
    """The row of each target [target]."""
    target_node: Tensor
    """The node of each target [target]."""
    table: Tensor
    """All products [m, width], in the order of the backward passes."""
    first: Tensor
    """Where each target's products begin in the table [target]; through a skip each target has only one."""

    def number(self, target: Tensor, row: Tensor) -> Tensor:
        """The indices in the table of the products of (target, upstream row) [n]."""
        return self.first[target] + (0 if self.connection.through == Through.SKIP else row)

    def pairs(self, row: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """(i, j) for every target i and upstream row[j] that it reads, in pieces; `row` is sorted.

        Attention reads every position of the example, other modules only the target's own.
        """
        together = self.slots if self.connection.through == Through.ATTENTION else 1
        return _pairs(self.target_row // together, row // together, self.table.shape[-1])


def batch_edges(
    spliced: SplicedModel,
    states: States,
    coefficients: Mapping[Site, Tensor],
    ends: Ends,
    arcs: Sequence[Connection],
) -> Iterator[tuple[Connection, Edges]]:
    """Every edge between the chosen ends in one batch, connection by connection."""
    for products in all_products(spliced, states, coefficients, ends, arcs):
        upstream = products.connection.upstream
        sources = (spliced.dictionaries[upstream], states.sites[upstream], ends[upstream])
        yield from ((products.connection, edges) for edges in _contract(products, *sources))


def all_products(
    spliced: SplicedModel,
    states: States,
    coefficients: Mapping[Site, Tensor],
    ends: Ends,
    arcs: Sequence[Connection],
) -> Iterator[Products]:
    """v_d J of every target, pulled back to every site that is directly upstream of it."""
    with torch.enable_grad(), frozen(spliced.model):
        cut = cut_forward(spliced, states)
        for site in spliced.sites:
            into = [arc for arc in arcs if arc.downstream == site]
            if into:
                at = cut.incoming[site]
                targets = _targets(spliced.dictionaries[site], states.sites[site], coefficients[site], ends[site], at)
                yield from _pulled_back(cut, site, into, targets)


def metric_gradients(
    spliced: SplicedModel, states: States, coefficients: Mapping[Site, Tensor], arcs: Sequence[Connection]
) -> dict[Site, Tensor]:
    """The coefficient of each site's direct connection to the metric.

    If only the metric reads a site, this connection has a node's whole effect, so its coefficient is the
    estimator's own; for other sites it is the clean run's direct gradient.
    """
    to_metric = [arc.upstream for arc in arcs if arc.downstream is None]
    read_by_sites = {arc.upstream for arc in arcs if arc.downstream is not None}
    gradients = {site: coefficients[site] for site in to_metric if site not in read_by_sites}
    others = [site for site in to_metric if site in read_by_sites]
    if others:
        with torch.enable_grad(), frozen(spliced.model):
            cut = cut_forward(spliced, states)
            direct = torch.autograd.grad(cut.metric.sum(), [cut.leaves[site] for site in others])
        gradients |= dict(zip(others, direct, strict=True))
    return gradients


def arcs_of(spliced: SplicedModel) -> list[Connection]:
    """Every direct connection of the model's sites."""
    bypassed = [site for site, dictionary in spliced.dictionaries.items() if dictionary.has_bypass]
    return connections(spliced.sites, spliced.architecture.n_layers, spliced.architecture.sequential, bypassed)


def cut_forward(spliced: SplicedModel, states: States) -> _Cut:
    """The clean run with its graph cut at every site."""
    incoming: dict[Site, _Arrival] = {}
    leaves: dict[Site, Tensor] = {}

    def cut(site: Site, x: Tensor, read: Tensor) -> Tensor:
        dictionary = spliced.dictionaries[site]
        incoming[site] = _Arrival(x, read)
        leaves[site] = x.detach().requires_grad_()
        if not dictionary.has_bypass:
            return leaves[site]
        past = dictionary.bypass(read.to(states.sites[site].change.dtype))
        assert past is not None
        # the path past the features: it does not change the value, but passes the gradient
        return leaves[site] + (past - past.detach()).to(x.dtype)

    logits = spliced.run_reading(states.batch.clean, cut, answers_only=True)
    return _Cut(incoming, leaves, states.objective(logits))


def _targets(
    dictionary: Dictionary, state: SiteState, coefficient: Tensor, ends: SiteEnds, arrival: _Arrival
) -> _Targets:
    """The targets of a site with v_d, the part of the coefficient c that each passes back to where its site reads.

    x = sum over i of f_i d_i + B(read) + error, with decoder rows d_i and bypass B. An active feature has the
    gradient e_i, its encoder row, and the error is what features and bypass leave over of x:

        feature i:  v_i = (c . d_i) e_i
        error:      v_error = c J[x <- read] - sum over active i of v_i - c B

    J[x <- read] is the MLP's Jacobian at a transcoder, and else the identity.
    """
    c, read = (t.flatten(0, 1).to(state.change.dtype) for t in (coefficient, state.read))
    error_row = ends.target_errors.nonzero()[:, 0]

    # v_i of the targets, and of all active features at the row of an error that is a target
    beside_error = ends.target_errors[state.row] & state.active
    entries = (ends.target_entries | beside_error).nonzero()[:, 0]
    row, feature = state.row[entries], state.feature[entries]
    c_d = state.scaled(dictionary.gradient_at(c, row, feature), row)
    v = dictionary.pull(read[row], c_d[:, None] * dictionary.encoder_rows(feature))

    # sum over active i of v_i + c B, at the rows of errors
    passed_by_others = torch.zeros_like(read).index_add_(0, row, v * beside_error[entries, None])[error_row]
    through_bypass = dictionary.pull_bypass(c[error_row])
    if through_bypass is not None:
        passed_by_others = passed_by_others + through_bypass

    target = ends.target_entries[entries]
    rows = torch.cat([row[target], error_row])
    nodes = torch.cat([feature[target], torch.full_like(error_row, dictionary.n_features)])
    at_read = _at_read(c, error_row, arrival) if dictionary.transcodes else c[error_row]
    return _Targets(rows, nodes, torch.cat([v[target], at_read - passed_by_others]))


def _at_read(c: Tensor, error_row: Tensor, arrival: _Arrival) -> Tensor:
    """c J[x <- read] at the rows of errors [n, width]: one pass for all of them, since an MLP does not mix rows."""
    if not len(error_row):
        return c.new_zeros(0, arrival.read.shape[-1])
    (pulled,) = torch.autograd.grad(
        arrival.x, arrival.read, c.view_as(arrival.x).to(arrival.x.dtype), retain_graph=True
    )
    return pulled.flatten(0, 1)[error_row].to(c.dtype)


def _pulled_back(cut: _Cut, site: Site, into: Sequence[Connection], targets: _Targets) -> Iterator[Products]:
    """v_d J of one site's targets, for every connection into it."""
    if not len(targets.row):
        return
    slots, everything = cut.leaves[site].shape[1], torch.arange(len(targets.row), device=targets.row.device)
    for arc in into:
        if arc.through == Through.SKIP:  # J is the identity
            yield Products(arc, slots, targets.row, targets.node, targets.v, everything)
    if inner := [arc for arc in into if arc.through > Through.SKIP]:
        yield from _passes(cut, site, inner, targets)


def _passes(cut: _Cut, site: Site, inner: Sequence[Connection], targets: _Targets) -> Iterator[Products]:
    """v_d J by backward passes, some of them batched, for connections that are no mere skip."""
    read = cut.incoming[site].read
    n_rows, slots = read.shape[:2].numel(), read.shape[1]

    # one pass carries one target per row, or where attention mixes rows, one per example
    mixes = any(arc.through == Through.ATTENTION for arc in inner)
    turn = _turn(targets.row // slots if mixes else targets.row)
    per_run = max(1, _NUMBERS // read.numel())
    for begin in range(0, int(turn.max()) + 1, per_run):
        part = ((turn >= begin) & (turn < begin + per_run)).nonzero()[:, 0]
        count = int(turn[part].max()) + 1 - begin
        first = (turn[part] - begin) * n_rows
        at = first + targets.row[part]

        leaves = [cut.leaves[arc.upstream] for arc in inner]
        vectors = _placed(targets.v[part], at, count, read)
        pulled = torch.autograd.grad(read, leaves, [vectors], is_grads_batched=True, retain_graph=True)

        for arc, product in zip(inner, pulled, strict=True):
            table = product.flatten(0, 2).to(targets.v.dtype)
            yield Products(arc, slots, targets.row[part], targets.node[part], table, first)


def _placed(v: Tensor, at: Tensor, count: int, x: Tensor) -> Tensor:
    """Zeros [count, *x.shape], except for vectors v [n, width] at flat positions `at` [n]."""
    vectors = x.new_zeros(count * x.shape[:2].numel(), x.shape[-1])
    vectors[at] = v.to(x.dtype)
    return vectors.view(count, *x.shape)


def _turn(group: Tensor) -> Tensor:
    """The numbers 0, 1, 2, ... within each group, in order."""
    order = group.argsort(stable=True)
    first = torch.searchsorted(group[order].contiguous(), group[order].contiguous())
    turn = torch.empty_like(group)
    turn[order] = torch.arange(len(group), device=group.device) - first
    return turn


def _contract(products: Products, dictionary: Dictionary, state: SiteState, ends: SiteEnds) -> Iterator[Edges]:
    """v_d J . (change of x by u), for each pair of a target d and a source u that it reads."""
    # a feature changes x by `step` of its decoder row
    entry = (ends.source_entries & (state.change != 0)).nonzero()[:, 0]
    for t, e in products.pairs(state.row[entry]):
        row, feature = state.row[entry[e]], state.feature[entry[e]]
        value = dictionary.gradient_at(products.table, products.number(t, row), feature) * state.step[entry[e]]
        yield _nonzero(Edges(products.target_row[t], products.target_node[t], row, feature, value))

    # an error changes x by its own change
    error = state.error_change.flatten(0, 1)
    error_row = (ends.source_errors & (error != 0).any(-1)).nonzero()[:, 0]
    for t, e in products.pairs(error_row):
        row = error_row[e]
        value = (products.table[products.number(t, row)] * error[row]).sum(-1)
        node = torch.full_like(row, dictionary.n_features)
        yield _nonzero(Edges(products.target_row[t], products.target_node[t], row, node, value))


def _pairs(group: Tensor, other: Tensor, width: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All (i, j) with group[i] == other[j], in pieces that fit for vectors of this width; `other` is sorted."""
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
