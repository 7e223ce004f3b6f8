"""What a trace keeps if its examples have other weights: chosen again from effects that are computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from featcircuits.circuit.pruning import PruningRule, choose
from featcircuits.effects.direct import arcs_of
from featcircuits.effects.edges import STAGE as EDGES
from featcircuits.effects.edges import edge_effects, name_of_arc
from featcircuits.effects.nodes import STAGE as NODES
from featcircuits.effects.nodes import node_effects
from featcircuits.evaluation.scope import scope_of
from featcircuits.model.nodes import METRIC, Endpoint, Node, input_node
from featcircuits.model.sites import EMBED, Site
from featcircuits.progress import Progress
from featcircuits.runs.ledger import Ledger, Part
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.index import NodeIndex
from featcircuits.tasks.task import Task
from featcircuits.tracing.plan import Plan

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

ORDERS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "effect": lambda means: np.argsort(-np.abs(means), kind="stable"),
    "helpful": lambda means: np.lexsort((-np.abs(means), means < 0)),
}
"""The selection rules that need nothing but mean effects."""
MOST = 100_000
"""The strongest effects of an example that are kept, of nodes and of edges; weaker ones count as 0 there."""


class Choice(NamedTuple):
    """What one set of weights keeps, as numbers of nodes and edges; `edges` is None for circuits without edges."""

    nodes: np.ndarray
    edges: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Resampled:
    """The choice of each set of weights, and the candidates that they number."""

    nodes: Sequence[Node]
    edges: Sequence[tuple[Endpoint, Endpoint]]
    choices: Sequence[Choice]


def resampled(
    spliced: SplicedModel, task: Task, plan: Plan, weights: np.ndarray, ledger: Ledger, progress: Progress
) -> Resampled:
    """What the plan's rules keep for each row of weights [draw, example], as a trace chooses.

    Edges are computed among the nodes that some row keeps; each row chooses among the edges between its own nodes.
    """
    ledger, weights = _OfExamples(ledger), weights / weights.sum(1, keepdims=True)
    table = _node_table(spliced, task, plan, ledger, progress)
    order = ORDERS[plan.select.name]
    kept = [_first(table, order, plan.keep_nodes, row) for row in weights]
    candidates = np.unique(np.concatenate(kept)) if kept else np.zeros(0, dtype=int)
    nodes, numbers = table.named(candidates), [np.searchsorted(candidates, own) for own in kept]
    if plan.edges is None or not nodes:
        return Resampled(nodes, [], [Choice(np.sort(own), None) for own in numbers])
    edges = _edge_table(spliced, task, plan, nodes, table.values[:, candidates], ledger, progress)
    choices = [edges.chosen(own, plan.keep_edges, row) for own, row in zip(numbers, weights, strict=True)]
    return Resampled(nodes, edges.names, choices)


@dataclass(frozen=True)
class _OfExamples:
    """A ledger of single examples, under stages of their own, which keeps the strongest effects of each."""

    own: Ledger

    def todo(self, stage: str, count: int) -> Sequence[int]:
        return self.own.todo(_stage(stage), count)

    def put(self, stage: str, number: int, part: Part) -> None:
        self.own.put(_stage(stage), number, _strongest(part))

    def parts(self, stage: str, count: int) -> dict[int, Part]:
        return self.own.parts(_stage(stage), count)


def _stage(stage: str) -> str:
    return f"stability-{stage}"


def _strongest(part: Part) -> Part:
    """The part with its `MOST` strongest sums."""
    names = [name.removesuffix("/keys") for name in part if name.endswith("/keys")]
    sizes = torch.cat([part[f"{name}/sums"][:, 0].abs() for name in names]) if names else torch.zeros(0)
    if len(sizes) <= MOST:
        return part
    least, found = sizes.kthvalue(len(sizes) - MOST + 1).values, dict(part)
    for name in names:
        strong = part[f"{name}/sums"][:, 0].abs() >= least
        found[f"{name}/keys"], found[f"{name}/sums"] = part[f"{name}/keys"][strong], part[f"{name}/sums"][strong]
    return found


@dataclass(frozen=True, eq=False)
class _Nodes:
    """Effects of nodes by example."""

    values: csr_matrix
    """[example, column]"""
    sites: Sequence[Site]
    site: np.ndarray
    """The number of each column's site"""
    number: np.ndarray
    """Of each column, at its site"""
    decided: np.ndarray
    """Whether an evaluation ablates each column; the others come last in any order"""
    index: NodeIndex

    def named(self, columns: np.ndarray) -> list[Node]:
        """The nodes of some columns."""
        pairs = zip(self.site[columns].tolist(), self.number[columns].tolist(), strict=True)
        return [self.index.node(self.sites[site], number) for site, number in pairs]


def _first(
    table: _Nodes, order: Callable[[np.ndarray], np.ndarray], rule: PruningRule, weights: np.ndarray
) -> np.ndarray:
    """The columns that a rule keeps, in order."""
    means = table.values.T @ weights
    ranked = order(means)
    ranked = ranked[means[ranked] != 0]
    given = ranked[~table.decided[ranked]]
    given = given[np.argsort(-np.abs(means[given]), kind="stable")]
    ranked = np.concatenate([ranked[table.decided[ranked]], given])
    return ranked[rule(np.abs(means[ranked]))] if len(ranked) else ranked


def _node_table(spliced: SplicedModel, task: Task, plan: Plan, ledger: Ledger, progress: Progress) -> _Nodes:
    from scipy.sparse import csr_matrix, hstack

    node_effects(
        spliced, task, plan.nodes,
        baseline=plan.patched_in, error_effects=plan.error_effects, batch_size=1, keep_examples=False,
        ledger=ledger, check=False, progress=progress,
    )  # fmt: skip
    parts, scope = ledger.parts(NODES, len(task)), scope_of(spliced, plan.start_layer)
    tables = [_by_example(parts, str(site)) for site in spliced.sites]
    counts = [len(keys) for _, keys in tables]
    site = np.repeat(np.arange(len(tables)), counts)
    decided = np.repeat([site in scope.dictionaries for site in spliced.sites], counts)
    values = csr_matrix(hstack([csr_matrix((len(task), 0)), *(values for values, _ in tables)]))
    numbers = np.concatenate([keys for _, keys in tables])
    return _Nodes(values, spliced.sites, site, numbers, decided.astype(bool), NodeIndex.of(spliced, task.places))


@dataclass(frozen=True, eq=False)
class _Edges:
    """Effects of edges by example, between candidates by number; the metric is the last, and inputs are -1."""

    values: csr_matrix
    source: np.ndarray
    target: np.ndarray
    names: Sequence[tuple[Endpoint, Endpoint]]
    count: int
    """The number of candidates"""

    def chosen(self, nodes: np.ndarray, rule: PruningRule, weights: np.ndarray) -> Choice:
        """The edges among `nodes` that a rule keeps, and what has a path of them to the metric."""
        within = np.zeros(self.count + 2, dtype=bool)
        within[[*nodes, self.count, -1]] = True
        means = self.values.T @ weights
        alive = np.flatnonzero(within[self.source] & within[self.target] & (means != 0))
        kept = alive[np.array(choose(means[alive], rule), dtype=int)]
        reached = np.zeros(self.count + 2, dtype=bool)
        reached[self.count] = True
        while True:
            found = self.source[kept[reached[self.target[kept]]]]
            if reached[found].all():
                break
            reached[found] = True
        return Choice(np.sort(nodes[reached[nodes]]), np.sort(kept[reached[self.target[kept]]]))


def _edge_table(
    spliced: SplicedModel,
    task: Task,
    plan: Plan,
    nodes: Sequence[Node],
    effects: csr_matrix,
    ledger: Ledger,
    progress: Progress,
) -> _Edges:
    """Edges among candidates, into the metric, and from inputs, which have the effects of the embedding's nodes."""
    from scipy.sparse import csr_matrix, hstack

    edge_effects(
        spliced, task, nodes, plan.edges,
        baseline=plan.patched_in, batch_size=1, ledger=ledger, check=False, progress=progress,
    )  # fmt: skip
    index, parts = NodeIndex.of(spliced, task.places), ledger.parts(EDGES, len(task))
    number: dict[Endpoint, int] = {node: at for at, node in enumerate(nodes)}
    embedded = [node for node in nodes if node.site == EMBED]
    names: list[tuple[Endpoint, Endpoint]] = [(input_node(node.place), node) for node in embedded]
    tables = [effects[:, [number[node] for node in embedded]]]
    for arc in arcs_of(spliced):
        values, keys = _by_example(parts, name_of_arc(arc))
        count = index.count(arc.upstream)
        sources = index.nodes(arc.upstream, (keys % count).tolist())
        targets: Iterable[Endpoint] = [METRIC] * len(keys)
        if arc.downstream is not None:
            targets = index.nodes(arc.downstream, (keys // count).tolist())
        names += zip(sources, targets, strict=True)
        tables.append(values)
    source, target = (np.array([number.get(edge[side], -1) for edge in names], dtype=int) for side in (0, 1))
    target[[edge[1] == METRIC for edge in names]] = len(nodes)
    return _Edges(csr_matrix(hstack(tables)), source, target, names, len(nodes))


def _by_example(parts: Mapping[int, Part], name: str) -> tuple[csr_matrix, np.ndarray]:
    """Sums by example [example, key], and the keys; with a batch per example its sums are that example's values."""
    from scipy.sparse import csr_matrix

    rows = [np.full(len(part[f"{name}/keys"]), number) for number, part in parts.items() if f"{name}/keys" in part]
    own = [part for part in parts.values() if f"{name}/keys" in part]
    if not own:
        return csr_matrix((len(parts), 0)), np.zeros(0, dtype=np.int64)
    keys, columns = np.unique(np.concatenate([part[f"{name}/keys"].numpy() for part in own]), return_inverse=True)
    values = np.concatenate([part[f"{name}/sums"][:, 0].numpy() for part in own])
    return csr_matrix((values, (np.concatenate(rows), columns)), shape=(len(parts), len(keys))), keys
