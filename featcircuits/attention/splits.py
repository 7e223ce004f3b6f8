"""fc.attention_splits: through which heads, and from which keys, does an edge go?

With patterns A held, layer l's attention is a sum over its heads h and keys k of linear maps of the stream,

    z_h[q] = sum over k of A_h[q, k] V_h x[k],

so the part of an edge from u to d whose last attention before d is that of layer l is the sum over h and k of

    G_h[q] . A_h[q, k] (change of V_h x[k] by u),    G = v_d J with nothing going back through a later attention.

Between neighbouring residual sites no path passes two attentions, and k is the position of u.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.attention.opened import Opened, opened, tangents
from featcircuits.effects.cut import Cut, cut_forward
from featcircuits.effects.direct import arcs_of, metric_gradients
from featcircuits.effects.edges import edge_estimator
from featcircuits.effects.ends import NodeSet
from featcircuits.effects.targets import targets_of
from featcircuits.errors import InputError, shortened
from featcircuits.estimators.estimator import CoefficientEstimator, Estimator
from featcircuits.model.connections import Connection
from featcircuits.model.frozen import frozen
from featcircuits.model.nodes import METRIC, Node, Place
from featcircuits.model.sites import Site
from featcircuits.propagation.attention_kernels import per_head
from featcircuits.provenance.belonging import check_task
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.baselines import Baseline, mean_states
from featcircuits.states.states import States, fitting_batch, states_of
from featcircuits.tasks.task import Task

Edge = tuple[Node, Node | str]


class HeadPart(NamedTuple):
    """What one head passes on from one key to the downstream node's position."""

    layer: int
    head: int
    key: Place
    """The key's place; None if positions are summed."""
    value: float


@dataclass(frozen=True)
class EdgeSplit:
    """An edge's mean over the task in parts: `edge` = sum of `heads` + `past_attention` + `through_scores`."""

    upstream: Node
    downstream: Node | str
    edge: float
    heads: tuple[HeadPart, ...]
    """Strongest first, by the last attention on the way to the downstream node; those that are 0 are left out."""
    past_attention: float
    """What passes no attention: along the stream, and through MLPs without a site."""
    through_scores: float
    """The rest of the edge: what moves the patterns. 0 up to rounding under rules that hold them (relp with `ah`).

    Estimators whose coefficient is a mean along a path (ig) also leave here, of edges into the metric, the difference
    from the clean run's gradient.
    """

    def by_head(self) -> dict[tuple[int, int], float]:
        """(layer, head) -> the sum over keys, strongest first."""
        sums: dict[tuple[int, int], float] = defaultdict(float)
        for part in self.heads:
            sums[part.layer, part.head] += part.value
        return dict(sorted(sums.items(), key=lambda item: -abs(item[1])))


def attention_splits(
    spliced: SplicedModel,
    task: Task,
    edges: Iterable[tuple[Node | str, Node | str]],
    estimator: str | Estimator | None = None,
    *,
    baseline: Baseline | None = None,
    batch_size: int | None = None,
    check: bool = True,
) -> tuple[EdgeSplit, ...]:
    """Split edges over the heads and keys that they go through, with attention patterns held in the clean run.

    `edges`: pairs (upstream, downstream) of nodes or names, such as the `edges` of a circuit; downstream may be
    "metric", and edges from inputs, which have no weight of their own, are left out. `estimator` and `baseline` as
    for `fc.edge_effects`, whose value each `edge` has: an estimator with coefficients, so not "exact".
    Raises `InputError` for nodes that do not exist or are not directly connected, and for attention that no function
    can be put around (flash and flex kernels).
    """
    check_task(spliced, task, check)
    estimator = edge_estimator(task, estimator, baseline or "paired")
    if not isinstance(estimator, CoefficientEstimator):
        raise InputError(
            f"estimator {estimator.name!r} has no single run whose edges could be split; use relp, atp or secant"
        )
    asked = _edges_of(edges)
    _check_connected(asked, arcs_of(spliced))
    among = NodeSet({end for edge in asked for end in edge if isinstance(end, Node)}, spliced, task.places)
    sums: dict[Edge, _Sums] = {edge: _Sums() for edge in asked}
    size = fitting_batch(spliced, task, batch_size)
    means = mean_states(spliced, task, size) if baseline == "mean" else None
    for batch in task.batches(size):
        states = states_of(spliced, task, batch, baseline or "paired", means)
        coefficients = estimator.coefficients(spliced, states)
        with estimator.propagation(spliced, states) as between, torch.enable_grad(), frozen(spliced.model):
            _add(sums, spliced, between, coefficients, among, estimator.through_features)
    return tuple(_split(edge, sums[edge], task) for edge in asked)


@dataclass
class _Sums:
    """One edge's parts, summed over examples and positions."""

    edge: float = 0.0
    past: float = 0.0

    def __post_init__(self) -> None:
        self.heads: dict[tuple[int, int, int], float] = defaultdict(float)


def _split(edge: Edge, sums: _Sums, task: Task) -> EdgeSplit:
    count, places = len(task), (*task.places, None)  # the last one for tokens without a place
    parts = [HeadPart(layer, head, places[place], value / count) for (layer, head, place), value in sums.heads.items()]
    rest = sums.edge - sums.past - sum(sums.heads.values())
    ordered = tuple(sorted((part for part in parts if part.value), key=lambda part: -abs(part.value)))
    return EdgeSplit(*edge, sums.edge / count, ordered, sums.past / count, rest / count)


def _edges_of(edges: Iterable[tuple[Node | str, Node | str]]) -> list[Edge]:
    found: dict[Edge, None] = {}
    for pair in edges:
        if not (isinstance(pair, tuple) and len(pair) == 2):
            raise InputError(f"{shortened(pair)} is not an edge; give a pair (source, target)")
        source, target = pair
        if isinstance(source, str) and source.partition("@")[0] == "input":
            continue
        found[Node.parse(source), METRIC if target == METRIC else Node.parse(target)] = None
    return list(found)


def _check_connected(edges: Iterable[Edge], arcs: Iterable[Connection]) -> None:
    ends = {(arc.upstream, arc.downstream) for arc in arcs}
    for source, target in edges:
        if (source.site, target.site if isinstance(target, Node) else None) not in ends:
            raise InputError(
                f"{source} -> {target} is no edge of this suite: {source.site} and "
                f"{target.site if isinstance(target, Node) else target} are not directly connected"
            )


class _Source(NamedTuple):
    """One occurrence of an upstream node: its row, its change of x there, and how values move with it."""

    row: int
    change: Tensor
    moved: Sequence[Tensor | None]
    """Of each layer's values [head, slot, width of a head], in its example."""


class _Target(NamedTuple):
    """One occurrence of a downstream node: what it passes back, in its example."""

    example: int
    slot: int
    whole: Mapping[Site, Tensor]
    past: Mapping[Site, Tensor]
    heads: Sequence[Tensor | None]
    """To each layer's heads at the slot [head, width of a head]."""


def _add(
    sums: Mapping[Edge, _Sums],
    spliced: SplicedModel,
    states: States,
    coefficients: Mapping[Site, Tensor],
    among: NodeSet,
    through_features: bool,
) -> None:
    """Add one batch's parts to the sums."""
    held, closed, plain = opened(spliced, states, False), opened(spliced, states, True), cut_forward(spliced, states)
    places = states.batch.places
    sources: dict[Node, list[_Source]] = defaultdict(list)
    into: dict[Node | str, list[Edge]] = defaultdict(list)
    for edge in sums:
        into[edge[1]].append(edge)
    for node in dict.fromkeys(edge[0] for edge in sums):
        sources[node] = list(_sources(spliced, states, held, among, node))
    for end, edges in into.items():
        for target in _targets(spliced, states, coefficients, among, (plain, closed), end, through_features):
            for edge in edges:
                for source in sources[edge[0]]:
                    if source.row // places.shape[1] == target.example:
                        _add_pair(sums[edge], edge[0].site, source, target, held.patterns, places)


def _add_pair(
    sums: _Sums, site: Site, source: _Source, target: _Target, patterns: Sequence[Tensor], places: Tensor
) -> None:
    slot = source.row % places.shape[1]
    sums.edge += float(target.whole[site][slot].to(source.change) @ source.change)
    sums.past += float(target.past[site][slot].to(source.change) @ source.change)
    for layer, (back, moved) in enumerate(zip(target.heads, source.moved, strict=True)):
        if back is None or moved is None:
            continue
        through = patterns[layer][target.example, :, target.slot] * (moved * back[:, None]).sum(-1)
        for head, key in through.nonzero().tolist():
            sums.heads[layer, head, int(places[target.example, key])] += float(through[head, key])


def _sources(spliced: SplicedModel, states: States, held: Opened, among: NodeSet, node: Node) -> Iterator[_Source]:
    """Every occurrence of a node that patching changes."""
    state, places = states.sites[node.site], states.batch.places.flatten()
    dictionary, leaf = spliced.dictionaries[node.site], held.cut.leaves[node.site]
    at = (places == among.index.place(node)).nonzero()[:, 0]
    x = state.error_change.flatten(0, 1)
    if node.feature is not None:
        chosen = (state.feature == node.feature) & torch.isin(state.row, at)
        at = state.row[chosen]
        x = dictionary.write(state.step[chosen], at, state.feature[chosen], len(places))
    for row in at[(x[at] != 0).any(-1)].tolist():
        change = torch.zeros_like(x)
        change[row] = x[row]
        example = row // state.slots
        moved = tangents(held.values, leaf, change.view(leaf.shape))
        n_heads = [pattern.shape[1] for pattern in held.patterns]
        spread = [
            None if one is None else per_head(one[example : example + 1], count)[0].to(x.dtype)
            for one, count in zip(moved, n_heads, strict=True)
        ]
        yield _Source(row, x[row], spread)


def _targets(
    spliced: SplicedModel,
    states: States,
    coefficients: Mapping[Site, Tensor],
    among: NodeSet,
    cuts: tuple[Cut, Opened],
    end: Node | str,
    through_features: bool,
) -> Iterator[_Target]:
    """Every occurrence of an endpoint, with what it passes back in the run itself and past all attention."""
    plain, closed = cuts
    slots = states.batch.places.shape[1]
    if not isinstance(end, Node):
        direct = metric_gradients(spliced, states, coefficients, arcs_of(spliced))
        past, heads = _gradients(closed, closed.cut.metric.sum(), None)
        for example, slot in enumerate(states.batch.clean.last.tolist()):
            yield _of_example(example, slot, direct, past, heads)
        return
    state, dictionary = states.sites[end.site], spliced.dictionaries[end.site]
    ends = among.ends(states)[end.site]
    rows = (states.batch.places.flatten() == among.index.place(end)).nonzero()[:, 0]
    number = dictionary.n_features if end.feature is None else end.feature
    if dictionary.transcodes and through_features:
        ends = ends.without_target_errors()
    found = targets_of(dictionary, state, coefficients[end.site], ends, plain.incoming[end.site])
    for turn in ((found.node == number) & torch.isin(found.row, rows)).nonzero()[:, 0].tolist():
        row = int(found.row[turn])
        read, again = plain.incoming[end.site].read, closed.cut.incoming[end.site].read
        seed = torch.zeros_like(read)
        seed[row // slots, row % slots] = found.v[turn].to(read.dtype)
        sites = list(plain.leaves)
        whole = dict(zip(sites, _grad(read, [plain.leaves[site] for site in sites], seed), strict=True))
        past, heads = _gradients(closed, again, seed)
        yield _of_example(row // slots, row % slots, whole, past, heads)


def _gradients(
    closed: Opened, result: Tensor, seed: Tensor | None
) -> tuple[dict[Site, Tensor | None], list[Tensor | None]]:
    """What goes back past all attention: to each site, and to each layer's heads."""
    sites = list(closed.cut.leaves)
    found = _grad(result, [*closed.cut.leaves.values(), *closed.heads], seed)
    return dict(zip(sites, found[: len(sites)], strict=True)), found[len(sites) :]


def _grad(result: Tensor, leaves: Sequence[Tensor], seed: Tensor | None) -> list[Tensor | None]:
    if not result.requires_grad:
        return [None] * len(leaves)
    return list(torch.autograd.grad(result, leaves, seed, retain_graph=True, allow_unused=True))


def _of_example(
    example: int,
    slot: int,
    whole: Mapping[Site, Tensor | None],
    past: Mapping[Site, Tensor | None],
    heads: Sequence[Tensor | None],
) -> _Target:
    reached = {site: gradient[example] for site, gradient in whole.items() if gradient is not None}
    at = {
        site: torch.zeros_like(gradient) if (own := past.get(site)) is None else own[example]
        for site, gradient in reached.items()
    }
    return _Target(example, slot, reached, at, [None if one is None else one[example, slot] for one in heads])
