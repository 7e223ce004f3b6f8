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

import torch
from torch import Tensor

from featcircuits.effects.cut import Cut, cut_forward
from featcircuits.effects.ends import Ends
from featcircuits.effects.held import held_ways
from featcircuits.effects.products import NUMBERS, Edges, Products, contracted
from featcircuits.effects.targets import Targets, targets_of
from featcircuits.model.connections import Connection, Through, connections
from featcircuits.model.frozen import frozen
from featcircuits.model.sites import RESID_MID, Site
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.states import States


def batch_edges(
    spliced: SplicedModel,
    states: States,
    coefficients: Mapping[Site, Tensor],
    ends: Ends,
    arcs: Sequence[Connection],
    held: bool = False,
) -> Iterator[tuple[Connection, Edges]]:
    """Every edge between the chosen ends in one batch, in pieces of one connection each."""
    for products in all_products(spliced, states, coefficients, ends, arcs, held):
        upstream = products.connection.upstream
        sources = (spliced.dictionaries[upstream], states.sites[upstream], ends[upstream])
        yield from ((products.connection, edges) for edges in contracted(products, *sources))


def all_products(
    spliced: SplicedModel,
    states: States,
    coefficients: Mapping[Site, Tensor],
    ends: Ends,
    arcs: Sequence[Connection],
    held: bool = False,
) -> Iterator[Products]:
    """v_d J of every target, pulled back to every site that is directly upstream of it.

    `held`: attention patterns and norm scales are held in backward passes.
    """
    with torch.enable_grad(), frozen(spliced.model):
        cut = cut_forward(spliced, states)
        ways = held_ways(spliced, states, cut, arcs, ends) if held else None
        for site in spliced.sites:
            into = [arc for arc in arcs if arc.downstream == site]
            if not into:
                continue
            at = cut.incoming[site]
            targets = targets_of(spliced.dictionaries[site], states.sites[site], coefficients[site], ends[site], at)
            yield from ways.products(site, into, targets) if ways else _pulled_back(cut, site, into, targets)


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
    architecture, dictionaries = spliced.architecture, spliced.dictionaries
    bypassed = [site for site, dictionary in dictionaries.items() if dictionary.has_bypass]
    without_norm = [site for site in dictionaries if spliced.read_site(site).kind == RESID_MID]
    return connections(spliced.sites, architecture.n_layers, architecture.sequential, bypassed, without_norm)


def _pulled_back(cut: Cut, site: Site, into: Sequence[Connection], targets: Targets) -> Iterator[Products]:
    """v_d J of one site's targets, for every connection into it."""
    if not len(targets.row):
        return
    slots, everything = cut.leaves[site].shape[1], torch.arange(len(targets.row), device=targets.row.device)
    for arc in into:
        if arc.through == Through.SKIP:  # J is the identity
            yield Products(arc, slots, targets.row, targets.node, targets.v, everything, slots)
    if inner := [arc for arc in into if arc.through > Through.SKIP]:
        yield from _passes(cut, site, inner, targets)


def _passes(cut: Cut, site: Site, inner: Sequence[Connection], targets: Targets) -> Iterator[Products]:
    """v_d J by backward passes, some of them batched, for connections that are no mere skip."""
    read = cut.incoming[site].read
    n_rows, slots = read.shape[:2].numel(), read.shape[1]

    # one pass carries one target per row, or where attention mixes rows, one per example
    mixes = any(arc.through == Through.ATTENTION for arc in inner)
    turn = _turn(targets.row // slots if mixes else targets.row)
    per_run = max(1, NUMBERS // read.numel())
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
            yield Products(arc, slots, targets.row[part], targets.node[part], table, first, slots)


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
