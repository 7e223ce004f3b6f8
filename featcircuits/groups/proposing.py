"""Groups proposed by clustering: nodes that write alike, are active together and have like edges and effects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from featcircuits.circuit.circuit import Circuit
from featcircuits.dossiers.dossiers import Dossiers
from featcircuits.dossiers.writes import Norms, stream_rows
from featcircuits.effects.results import NodeEffects
from featcircuits.errors import InputError
from featcircuits.inputs.ranges import Range, check_number
from featcircuits.model.nodes import Node
from featcircuits.splicing.spliced import SplicedModel

_MOST = 2000
"""The most nodes whose similarities, a square matrix, are computed."""


class Proposal(NamedTuple):
    """Groups by name, and how clear they are.

    `silhouette`: the mean over nodes of (b - a) / max(a, b), where a is a node's mean distance to its own group and b
    that to the nearest other group: near 1 for clear groups, near 0 for none. `tried`: number of groups -> silhouette.
    """

    groups: Mapping[str, tuple[Node, ...]]
    silhouette: float
    tried: Mapping[int, float]


def propose(
    circuit: Circuit,
    model: SplicedModel | None = None,
    *,
    effects: NodeEffects | None = None,
    dossiers: Dossiers | None = None,
    count: int | None = None,
) -> Proposal:
    """Groups of a circuit's features, by average-linkage clustering of the distance 1 - similarity.

    The similarity of two nodes is the mean of what is known: the cosine of their edges (weights in from each node and
    out to each node, as shares), always; the cosine of their decoder rows, with a `model`; the correlation of their
    effects over examples, with `effects` that keep them; phi of being active together, with `dossiers`. Error nodes are
    left out. `count`: how many groups; by default the number, of at most half as many as there are nodes, with the best
    silhouette. Nodes that are alone in their cluster are in no group.
    Raises `InputError` for circuits with fewer than 4 features or more than 2,000.
    """
    nodes = [node for node in circuit.nodes if not node.is_error]
    if not 4 <= len(nodes) <= _MOST:
        raise InputError(f"the circuit has {len(nodes)} features; groups can be proposed for 4 to {_MOST}")
    if count is not None:
        check_number("count", count, Range(2, len(nodes) - 1))
    parts = [_of_edges(circuit, nodes)]
    if model is not None:
        parts.append(_of_rows(model, nodes))
    if effects is not None:
        parts.append(_of_effects(effects, nodes))
    if dossiers is not None:
        parts.append(_of_activity(dossiers, nodes))
    similarity = np.nanmean(np.stack(parts), axis=0)
    return _clustered(circuit, nodes, 1 - np.clip((similarity + similarity.T) / 2, -1, 1), count)


def _clustered(circuit: Circuit, nodes: list[Node], distance: NDArray, count: int | None) -> Proposal:
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    np.fill_diagonal(distance, 0.0)
    tree = linkage(squareform(distance, checks=False), "average")
    numbers = [count] if count is not None else range(2, max(3, len(nodes) // 2 + 1))
    cuts = {number: fcluster(tree, number, "maxclust") for number in numbers}
    tried = {number: silhouette(distance, cut) for number, cut in cuts.items()}
    best = max(tried, key=lambda number: tried[number])
    members: dict[int, list[Node]] = {}
    for node, cluster in zip(nodes, cuts[best].tolist(), strict=True):
        members.setdefault(cluster, []).append(node)
    clusters = [own for own in members.values() if len(own) > 1]
    return Proposal({_name(circuit, own, turn): tuple(own) for turn, own in enumerate(clusters, 1)}, tried[best], tried)


def _name(circuit: Circuit, nodes: list[Node], turn: int) -> str:
    """The number of the group, and the label or the name of its strongest node."""
    strongest = max(nodes, key=lambda node: abs(circuit.nodes[node].effect))
    return f"{turn}: {circuit.labels.get(strongest, str(strongest))}"[:100]


def silhouette(distance: NDArray, clusters: NDArray) -> float:
    """The mean silhouette of clusters of points with these distances [n, n]; 0 for a point that is alone."""
    labels = np.unique(clusters)
    if len(labels) < 2:
        return 0.0
    sums = np.stack([distance[:, clusters == label].sum(1) for label in labels], 1)
    sizes = np.array([(clusters == label).sum() for label in labels])
    own = np.searchsorted(labels, clusters)
    rows = np.arange(len(clusters))
    alone = sizes[own] == 1
    a = sums[rows, own] / np.maximum(sizes[own] - 1, 1)
    means = sums / sizes
    means[rows, own] = np.inf
    b = means.min(1)
    largest = np.maximum(a, b)
    value = np.divide(b - a, largest, out=np.zeros_like(a), where=largest > 0)
    return float(np.where(alone, 0.0, value).mean())


def _cosine(rows: NDArray) -> NDArray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return unit @ unit.T


def _of_edges(circuit: Circuit, nodes: list[Node]) -> NDArray:
    ends = {end: number for number, end in enumerate(dict.fromkeys(end for edge in circuit.edges for end in edge))}
    index = {node: number for number, node in enumerate(nodes)}
    table = np.zeros((len(nodes), 2 * max(1, len(ends))))
    for (source, target), weight in circuit.edges.items():
        if target in index:
            table[index[target], ends[source]] += weight  # type: ignore[index]
        if source in index:
            table[index[source], len(ends) + ends[target]] += weight  # type: ignore[index]
    return _cosine(table)


def _of_rows(model: SplicedModel, nodes: list[Node]) -> NDArray:
    """Cosines of what features write to the stream; rows of heads' outputs pass the output projection first."""
    norms = Norms.of(model, model.sites)
    rows = np.zeros((len(nodes), model.architecture.width))
    for site in {node.site for node in nodes}:
        here = [number for number, node in enumerate(nodes) if node.site == site]
        ids = torch.tensor([nodes[number].feature for number in here], device=model.device)
        rows[here] = stream_rows(model, norms, site, ids).detach().double().cpu().numpy()
    return _cosine(rows)


def _of_effects(effects: NodeEffects, nodes: list[Node]) -> NDArray:
    """Correlations over examples of the effects, summed at the node's place."""
    table = np.stack([profile(effects, node) for node in nodes])
    return _cosine(table - table.mean(1, keepdims=True))


def profile(effects: NodeEffects, node: Node) -> NDArray:
    """A node's effect in each example [example]: at its position, or summed over all positions for other places."""
    if node.feature is None:
        errors = effects.error(node.site).double()
        return (errors[:, node.place] if isinstance(node.place, int) else errors.sum(1)).numpy()
    example, position, feature, value = effects.entries(node.site)
    kept = feature == node.feature
    if isinstance(node.place, int):
        kept &= position == node.place
    total = torch.zeros(effects.shape[0], dtype=torch.float64)
    return total.index_add(0, example[kept].long(), value[kept].double()).numpy()


def _of_activity(dossiers: Dossiers, nodes: list[Node]) -> NDArray:
    """Phi of being active together, where a dossier names it among its largest; 1 for the same feature, else 0."""
    table = np.zeros((len(nodes), len(nodes)))
    at: dict[str, list[int]] = {}
    for number, node in enumerate(nodes):
        at.setdefault(f"{node.site}/{node.feature}", []).append(number)
    for name, own in at.items():
        for a in own:
            table[a, own] = 1.0
        for other in dossiers[name].coactive if name in dossiers else ():
            for a in own:
                table[a, at.get(other.name, [])] = other.value
    return np.maximum(table, table.T)
