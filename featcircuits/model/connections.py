"""Which sites are directly connected, and through what.

The full graph of a block: the residual stream before it reaches the attention's heads, the MLP and
the stream after it; heads reach the attention's output; attention and MLP write to the stream; in
sequential blocks the MLP also reads the attention's output. If a suite lacks a site, paths
through it belong to the connection between its neighbours. So a connection is any path whose inner
sites are all absent, or have a bypass past their features (skip transcoders).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple

from featcircuits.model.sites import STREAM, Site, all_sites, resid


class Through(IntEnum):
    """What a connection passes through, from cheapest to most expensive."""

    SKIP = 0
    """Only additions to the residual stream: the Jacobian is the identity at each position."""
    MLP = 1
    """Norms, MLPs and projections: each position on its own."""
    ATTENTION = 2
    """Attention: positions mix."""


class Connection(NamedTuple):
    """A direct connection; a `downstream` of None is the metric."""

    upstream: Site
    downstream: Site | None
    through: Through


_STEP = {"resid": Through.SKIP, "mlp": Through.MLP, "attn": Through.MLP, "attn_z": Through.ATTENTION}
"""Kind of a site -> what a path passes through last to reach it."""


def connections(
    sites: Sequence[Site],
    n_layers: int,
    sequential: bool,
    bypassed: Collection[Site] = (),
    without_norm: Collection[Site] = (),
) -> list[Connection]:
    """Every direct connection among `sites` and to the metric, in forward order; paths go on past `bypassed` sites.

    `without_norm`: those of the sites whose transcoders read the stream itself, before the MLP's norm.
    """
    graph = _Graph(set(sites), set(sites) - set(bypassed), set(without_norm), n_layers, sequential)
    found = [connection for site in sites for connection in _from(site, graph)]
    return sorted(found, key=lambda c: (c.downstream is None, c.downstream or c.upstream, c.upstream))


class _Graph(NamedTuple):
    present: set[Site]
    ends: set[Site]
    """The present sites where paths end."""
    without_norm: set[Site]
    n_layers: int
    sequential: bool


def _from(source: Site, graph: _Graph) -> Iterator[Connection]:
    present, ends, without_norm, n_layers, sequential = graph
    reached: dict[Site, Through] = {source: Through.SKIP}
    for site in all_sites(n_layers, _STEP):
        if site not in reached or (site in ends and site != source):
            continue
        # a bypass is a linear map of each position, but not the identity
        so_far = max(reached[site], Through.MLP) if site in present and site != source else reached[site]
        for reader in _readers(site, n_layers, sequential):
            through = max(so_far, Through.SKIP if reader in without_norm else _STEP[reader.kind])
            reached[reader] = max(reached.get(reader, Through.SKIP), through)
    for site, through in reached.items():
        if site in present and site != source:
            yield Connection(source, site, through)
    last = resid(n_layers - 1)
    if last in reached and (last == source or last not in ends):
        passes = last in present and last != source
        yield Connection(source, None, max(reached[last], Through.MLP) if passes else reached[last])


def _readers(site: Site, n_layers: int, sequential: bool) -> Iterator[Site]:
    """The sites that read this one directly in the full graph."""
    layer = site.layer
    if site.kind in STREAM:
        if layer + 1 < n_layers:
            yield from (Site(layer + 1, "attn_z"), Site(layer + 1, "mlp"), resid(layer + 1))
        return
    if site.kind == "attn_z":
        yield Site(layer, "attn")
        return
    if site.kind == "attn" and sequential:
        yield Site(layer, "mlp")
    yield resid(layer)
