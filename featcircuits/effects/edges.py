"""Edge effects of a task: the part of a node's effect that one direct connection carries.

    effect(u -> d) = c_d . J[d <- x_u | all other sites held fixed, clean run] . change of u

    (Marks et al. 2024, eq. 5, with c the estimator's coefficient.) Errors are nodes at both ends.
With AtP the edges out of a node, to every downstream node and the metric, add up to its effect.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.effects.direct import arcs_of
from featcircuits.effects.ends import NodeSet
from featcircuits.effects.estimated_edges import estimated_edges, strong_ends
from featcircuits.effects.exact_edges import batch_exact_edges
from featcircuits.effects.products import Edges
from featcircuits.effects.results import NodeEffects, check_effects
from featcircuits.errors import InputError, shortened
from featcircuits.estimators import ESTIMATORS, default_estimator, parse_estimator
from featcircuits.estimators.estimator import ROWS, CoefficientEstimator, Estimator
from featcircuits.estimators.exact import ExactPatching
from featcircuits.inputs.ranges import MOST, Range, check_number
from featcircuits.inputs.renamed import takes_new_words
from featcircuits.model.connections import Connection
from featcircuits.model.nodes import METRIC, Node, Place, nodes_of
from featcircuits.model.sites import Site
from featcircuits.progress import Progress, silent
from featcircuits.provenance.belonging import check_task, identity_of, request_of
from featcircuits.runs.ledger import InMemory, Ledger, Part, Stamped, check_examples, columns
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.baselines import Baseline, check_baseline, mean_states
from featcircuits.states.index import NodeIndex, n_features_of
from featcircuits.states.states import States, fitting_batch, states_of
from featcircuits.states.tally import Tally
from featcircuits.tasks.task import Task

STAGE = "edges"
"""The name of this stage in a ledger."""
LOOP = "edge effects"
"""The name of the loop over batches, followed by the estimator's name."""


class EdgeEffect(NamedTuple):
    """An edge's mean effect over the task; `downstream` is a node or "metric"."""

    upstream: Node
    downstream: Node | str
    mean: float


@dataclass(frozen=True, eq=False)
class EdgeEffects:
    """The mean effects over the task of the requested edges."""

    estimator: Estimator
    places: tuple[Place, ...]
    n_features: Mapping[Site, int]
    _tallies: Mapping[Connection, Tally]

    def coo(self, upstream: str | Site, downstream: str | Site) -> tuple[Tensor, Tensor]:
        """index [4, n] of (downstream place, downstream node, upstream place, upstream node), values [n].

        Places index the task's places (positions, if they are not aggregated); node `n_features` is
        the error node. Raises `InputError` if the two sites are not directly connected.
        """
        ends = (Site.parse(upstream), Site.parse(downstream))
        for arc, tally in self._tallies.items():
            if (arc.upstream, arc.downstream) == ends:
                target, source = _split(self.index, arc, tally.keys)
                return torch.stack([*self.index.split(ends[1], target), *self.index.split(ends[0], source)]), tally.mean
        raise InputError(f"{upstream} and {downstream} are not directly connected in this suite")

    def edges(self) -> Iterator[EdgeEffect]:
        """Every edge."""
        index = self.index
        for arc, tally in self._tallies.items():
            ends = (numbers.tolist() for numbers in _split(index, arc, tally.keys))
            for target, source, value in zip(*ends, tally.mean.tolist(), strict=True):
                downstream = METRIC if arc.downstream is None else index.node(arc.downstream, target)
                yield EdgeEffect(index.node(arc.upstream, source), downstream, value)

    @property
    def index(self) -> NodeIndex:
        """The index that numbers the nodes; sums of edges are kept by these numbers."""
        return NodeIndex(self.places, self.n_features)


@takes_new_words
def edge_effects(
    spliced: SplicedModel,
    task: Task,
    nodes: NodeEffects | Iterable[Node | str],
    estimator: str | Estimator | None = None,
    *,
    node_threshold: float | None = None,
    baseline: Baseline | None = None,
    sources_per_target: int | None = None,
    batch_size: int | None = None,
    effects: NodeEffects | None = None,
    ledger: Ledger | None = None,
    check: bool = True,
    progress: Progress = silent,
) -> EdgeEffects:
    """Compute edge effects, averaged over the task.

    `nodes` is a collection of nodes, for all edges among them and to the metric, or the result of
    `node_effects` with a `node_threshold`, for all edges into the nodes whose |effect| in an
    example and position exceeds it, as Marks et al. compute them. `estimator` (by default that of the
    `effects`) gives the coefficient of the downstream node; the Jacobian is the clean run's (under the rules
    for "relp"). "exact" patches every edge among the nodes of a collection. If places sum several
    positions, an edge sums the pairs of positions. With the nodes' `effects`, states and coefficients that fitted
    into memory are not computed again. `ledger`: as for node effects. `sources_per_target` limits memory if
    there are many targets and all features are sources: from each batch, only this many of the strongest edges into a
    target from one site are kept, so the mean of an edge that is weak in some batches is too small.
    Raises `InputError` for effects of another model or other examples, unless `check` is False.
    """
    check_task(spliced, task, check)
    if isinstance(nodes, NodeEffects):
        effects = nodes
    else:
        nodes = nodes_of(nodes)
    _check_request(task, nodes, node_threshold, effects, batch_size, sources_per_target)
    if effects is not None:
        check_effects(spliced, task, effects, check)
        batch_size, baseline = effects.batch_size, baseline or effects.baseline
        estimator = effects.estimator if estimator is None else estimator
    estimator = edge_estimator(task, estimator, baseline or "paired")
    if isinstance(nodes, NodeEffects) and isinstance(estimator, ExactPatching):
        raise InputError("estimator 'exact' patches edges one by one; give it a collection of nodes, not a threshold")
    fixed = None if isinstance(nodes, NodeEffects) else NodeSet(nodes, spliced, task.places)
    same = effects is not None and effects.estimator == estimator
    arcs = arcs_of(spliced)
    batch_size = fitting_batch(spliced, task, batch_size)
    among = node_threshold if isinstance(nodes, NodeEffects) else list(map(str, nodes))
    settings = (estimator, baseline or "paired", batch_size, among, sources_per_target)
    # a ledger of this call's own needs no mark, and so no look at all weights
    ledger = Stamped(ledger, request_of(identity_of(spliced), task, *settings)) if ledger else InMemory()
    count = task.count_batches(batch_size)
    todo = ledger.todo(STAGE, count)
    batches = _batches(spliced, task, effects, baseline or "paired", batch_size, todo)
    for number, states, kept in progress(batches, f"{LOOP} ({estimator})", len(todo)):
        if isinstance(estimator, ExactPatching):
            assert fixed is not None
            found = batch_exact_edges(spliced, states, fixed, arcs, ROWS)
        else:
            coefficients = kept if kept and same else None
            if coefficients is None and isinstance(estimator, CoefficientEstimator):
                coefficients = estimator.coefficients(spliced, states)
            above = node_threshold or 0.0
            ends_at = fixed.ends if fixed else strong_ends(spliced, states, estimator, coefficients, above)
            found = estimated_edges(spliced, states, estimator, coefficients, ends_at, arcs)
        ledger.put(STAGE, number, _part(spliced, task, states, found, sources_per_target))
    parts = ledger.parts(STAGE, count)
    check_examples(parts, len(task))
    tallies = {
        arc: Tally.total(
            columns(parts, f"{name_of_arc(arc)}/keys"), columns(parts, f"{name_of_arc(arc)}/sums"), len(task)
        )
        for arc in arcs
    }
    return EdgeEffects(estimator, task.places, n_features_of(spliced), tallies)


def _part(
    spliced: SplicedModel,
    task: Task,
    states: States,
    found: Iterable[tuple[Connection, Edges]],
    sources_per_target: int | None,
) -> Part:
    """What a batch adds: the sums over its examples, by connection."""
    index, pieces = NodeIndex.of(spliced, task.places), defaultdict[Connection, list[_Keyed]](list)
    for arc, edges in found:
        pieces[arc].append(_keyed(states, index, arc, edges))
    tallies = {arc: _tally(index, arc, keyed) for arc, keyed in pieces.items()}
    part = {"examples": torch.tensor(len(states.batch.index))}
    for arc, tally in tallies.items():
        if sources_per_target is not None:
            # an edge may come in several pieces, so only a whole batch shows which are strong
            tally = tally.strongest(index.count(arc.upstream), sources_per_target)
        part[f"{name_of_arc(arc)}/keys"], part[f"{name_of_arc(arc)}/sums"] = tally.keys, tally.sums
    return part


def name_of_arc(arc: Connection) -> str:
    """Its name in a ledger."""
    return f"{arc.upstream}>{arc.downstream or METRIC}"


def _check_request(
    task: Task,
    nodes: NodeEffects | list[Node],
    node_threshold: float | None,
    effects: NodeEffects | None,
    batch_size: int | None,
    sources_per_target: int | None,
) -> None:
    if isinstance(nodes, NodeEffects) != (node_threshold is not None):
        raise InputError("node_threshold goes with the result of node_effects; a collection of nodes takes none")
    if node_threshold is not None:
        check_number("node_threshold", node_threshold, Range(0, 1e30), float)
    if sources_per_target is not None:
        check_number("sources_per_target", sources_per_target, Range(1, MOST))
    if isinstance(effects, NodeEffects) and batch_size not in (None, effects.batch_size):
        raise InputError(
            f"batch_size is {shortened(batch_size)}, but the effects were computed in batches of {effects.batch_size}, "
            "as their edges will be; leave it out"
        )


def _batches(
    spliced: SplicedModel,
    task: Task,
    effects: NodeEffects | None,
    baseline: Baseline,
    batch_size: int,
    todo: Sequence[int],
) -> Iterator[tuple[int, States, Mapping[Site, Tensor] | None]]:
    """Each batch's index and states, and the coefficients of `effects` if it kept them."""
    kept = effects.kept if effects is not None and effects.baseline == baseline else {}
    missing = any(number not in kept for number in todo)
    means = mean_states(spliced, task, batch_size) if baseline == "mean" and missing else None
    for number in todo:
        if number in kept:
            yield number, kept[number].states, kept[number].coefficients
        else:
            yield number, states_of(spliced, task, task.nth_batch(batch_size, number), baseline, means), None


def edge_estimator(task: Task, estimator: str | Estimator | None, baseline: Baseline) -> Estimator:
    """The estimator of a call that computes edges; raises `InputError` unless it has edges and the task fits it."""
    found = default_estimator(task, baseline) if estimator is None else parse_estimator(estimator)
    check_has_edges(found)
    check_baseline(task, baseline)
    found.check(task, baseline)
    task.check_places()
    return found


def check_has_edges(estimator: Estimator) -> None:
    """Raise `InputError` for an estimator that neither has coefficients nor patches edges."""
    if not estimator.has_edges:
        able = [name for name, kind in ESTIMATORS.items() if kind.has_edges]
        raise InputError(f"estimator {estimator.name!r} has no coefficients for edges; these have: {', '.join(able)}")


class _Keyed(NamedTuple):
    """Edges of one connection in one batch: which example they are of, and their number."""

    example: Tensor
    key: Tensor
    """The target's number x the number of sources + the source's number"""
    value: Tensor


def _keyed(states: States, index: NodeIndex, arc: Connection, found: Edges) -> _Keyed:
    places, slots = states.batch.places.flatten(), states.batch.places.shape[1]
    key = index.numbers(arc.upstream, places[found.source_row], found.source_node)
    if arc.downstream is not None:
        targets = index.numbers(arc.downstream, places[found.target_row], found.target_node)
        key = key + index.count(arc.upstream) * targets
    return _Keyed(found.target_row // slots, key, found.value)


def _tally(index: NodeIndex, arc: Connection, pieces: Sequence[_Keyed]) -> Tally:
    """All edges of one connection in one batch; pieces may have the same edge, of other positions of a place."""
    tally, n_keys = Tally(), index.count(arc.upstream)
    n_keys *= 1 if arc.downstream is None else index.count(arc.downstream)
    example, key, value = (torch.cat(column) for column in zip(*pieces, strict=True))
    tally.add(example, key, value, n_keys)
    return tally


def _split(index: NodeIndex, arc: Connection, keys: Tensor) -> tuple[Tensor, Tensor]:
    """(the targets' numbers, the sources' numbers) of keys; the metric's number is 0."""
    return keys // index.count(arc.upstream), keys % index.count(arc.upstream)
