"""fc.stability: would a circuit's nodes and edges be chosen again from other prompts of the same kind?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from featcircuits.circuit.circuit import Circuit
from featcircuits.circuit.pruning import ByInfluence, PruningRule, parse_pruning
from featcircuits.effects.edges import STAGE as EDGES
from featcircuits.effects.edges import edge_effects
from featcircuits.effects.nodes import STAGE as NODES
from featcircuits.effects.nodes import node_effects
from featcircuits.errors import InputError, shortened
from featcircuits.inputs.ranges import SEEDS, Range, check_number
from featcircuits.model.nodes import METRIC, Endpoint, Node
from featcircuits.model.sites import Site
from featcircuits.progress import Progress, silent
from featcircuits.provenance.belonging import check_circuit, check_task
from featcircuits.runs.ledger import InMemory, Part
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.index import NodeIndex
from featcircuits.tasks.task import Task

Edge = tuple[Endpoint, Endpoint]
ORDERS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "effect": lambda means: np.argsort(-np.abs(means), kind="stable"),
    "helpful": lambda means: np.lexsort((-np.abs(means), means < 0)),
}
"""The selection rules that need nothing but mean effects."""


@dataclass(frozen=True)
class Stability:
    """How often each node and edge of a circuit is chosen from resampled prompts, and how far two halves agree.

    `nodes`, `edges`: the share of `resamples` (examples drawn with replacement) from whose mean effects the circuit's
    own rules choose it. `node_overlap`, `edge_overlap`: the Jaccard index of what two disjoint halves of the examples
    choose, mean over random halves; None without edges. Edges are those among the circuit's nodes.
    """

    nodes: Mapping[Node, float]
    edges: Mapping[Edge, float]
    node_overlap: float
    edge_overlap: float | None
    resamples: int
    n_examples: int

    def on(self, circuit: Circuit) -> Circuit:
        """The circuit with these shares in its manifest, from where its file, graph and exports have them."""
        return replace(circuit, manifest={**circuit.manifest, "stability": self.to_json()})

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "nodes": {str(node): share for node, share in self.nodes.items()},
            "edges": [[str(source), str(target), share] for (source, target), share in self.edges.items()],
            "node_overlap": self.node_overlap,
            "edge_overlap": self.edge_overlap,
            "resamples": self.resamples,
            "examples": self.n_examples,
        }


def stability(
    spliced: SplicedModel,
    circuit: Circuit,
    task: Task,
    *,
    resamples: int = 200,
    halves: int = 20,
    seed: int = 0,
    check: bool = True,
    progress: Progress = silent,
) -> Stability:
    """Resample the prompts of a traced circuit, and choose its nodes and edges again by its own settings.

    `task`: the prompts that it was traced on. Effects are computed once, example by example; resamples only weigh them.
    Raises `InputError` for a circuit whose manifest does not say how it was traced, for orders that need more than mean
    effects (searching rules, `ratio` and `ranks`), and for fewer than four examples.
    """
    check_task(spliced, task, check)
    check_circuit(spliced, circuit, check=check, whole=True)
    check_number("resamples", resamples, Range(1, 100_000))
    check_number("halves", halves, Range(1, 100_000))
    check_number("seed", seed, SEEDS)
    if len(task) < 4:
        raise InputError(f"{task.name}: {len(task)} examples are too few to part or resample; give at least 4")
    settings = _settings(circuit)
    order = ORDERS[settings["select"]]
    table = _node_table(spliced, task, settings, check, progress)
    chosen = _choosing(table, order, parse_pruning(settings["keep_nodes"]))
    nodes, node_overlap = _shares(chosen, len(task), list(circuit.nodes), resamples, halves, seed)
    if settings["edges"] is None or not circuit.edges:
        return Stability(nodes, {}, node_overlap, None, resamples, len(task))
    table = _edge_table(spliced, task, circuit, settings, progress)
    own = [edge for edge in circuit.edges if isinstance(edge[0], Node)]
    chosen = _choosing(table, ORDERS["effect"], parse_pruning(settings["keep_edges"]))
    edges, edge_overlap = _shares(chosen, len(task), own, resamples, halves, seed)
    return Stability(nodes, edges, node_overlap, edge_overlap, resamples, len(task))


@dataclass(frozen=True, eq=False)
class _Table:
    """Effects by example: `values` [example, column], and what each column is."""

    values: csr_matrix
    names: Sequence[Any]


def _settings(circuit: Circuit) -> Mapping[str, Any]:
    found = circuit.manifest.get("settings")
    needed = ("nodes", "edges", "keep_nodes", "keep_edges", "select", "baseline", "error_effects")
    if not isinstance(found, Mapping) or any(name not in found for name in needed):
        raise InputError(
            "the circuit's manifest does not say how it was traced, so it cannot be chosen again: trace it"
        )
    if found["select"] not in ORDERS:
        raise InputError(
            f"the circuit's order is {shortened(found['select'])}, which needs more than mean effects; "
            f"stability is known for {', '.join(ORDERS)}"
        )
    for name in ("keep_nodes", "keep_edges"):
        if isinstance(parse_pruning(found[name]), ByInfluence):
            raise InputError(
                f"the circuit was pruned by influence ({name} is {found[name]}), which is not chosen again from "
                "resampled prompts; trace with top, threshold or cumulative for its stability"
            )
    return found


def _node_table(
    spliced: SplicedModel, task: Task, settings: Mapping[str, Any], check: bool, progress: Progress
) -> _Table:
    ledger = InMemory()
    node_effects(
        spliced, task, settings["nodes"],
        baseline=settings["baseline"], error_effects=settings["error_effects"], batch_size=1, keep_examples=False,
        ledger=ledger, check=check, progress=progress,
    )  # fmt: skip
    index, parts = NodeIndex.of(spliced, task.places), ledger.parts(NODES, len(task))
    tables = [_by_example(parts, str(site), partial(index.nodes, site)) for site in spliced.sites]
    return _together(tables, len(task))


def _edge_table(
    spliced: SplicedModel, task: Task, circuit: Circuit, settings: Mapping[str, Any], progress: Progress
) -> _Table:
    ledger, tables = InMemory(), []
    edges = settings["nodes"] if settings["edges"] == "same" else settings["edges"]
    edge_effects(
        spliced, task, circuit.nodes, edges,
        baseline=settings["baseline"], batch_size=1, ledger=ledger, check=False, progress=progress,
    )  # fmt: skip
    index, parts = NodeIndex.of(spliced, task.places), ledger.parts(EDGES, len(task))
    names = sorted({name.removesuffix("/keys") for part in parts.values() for name in part if name.endswith("/keys")})
    for name in names:
        source, _, target = name.partition(">")
        tables.append(_by_example(parts, name, _edge_names(index, Site.parse(source), target)))
    return _together(tables, len(task))


def _edge_names(index: NodeIndex, source: Site, target: str) -> Callable[[list[int]], list[Any]]:
    def names(keys: list[int]) -> list[Any]:
        count = index.count(source)
        sources = index.nodes(source, [key % count for key in keys])
        if target == METRIC:
            return [(node, METRIC) for node in sources]
        return list(zip(sources, index.nodes(Site.parse(target), [key // count for key in keys]), strict=True))

    return names


def _by_example(parts: Mapping[int, Part], name: str, names: Callable[[list[int]], Iterable[Any]]) -> _Table:
    """The sums of one kind of key, by example: with a batch per example its sums are that example's values."""
    rows = [np.full(len(part[f"{name}/keys"]), number) for number, part in parts.items() if f"{name}/keys" in part]
    own = [part for part in parts.values() if f"{name}/keys" in part]
    if not own:
        return _Table(csr_matrix((len(parts), 0)), [])
    keys, columns = np.unique(np.concatenate([part[f"{name}/keys"].numpy() for part in own]), return_inverse=True)
    values = np.concatenate([part[f"{name}/sums"][:, 0].numpy() for part in own])
    matrix = csr_matrix((values, (np.concatenate(rows), columns)), shape=(len(parts), len(keys)))
    return _Table(matrix, list(names(keys.tolist())))


def _together(tables: Sequence[_Table], count: int) -> _Table:
    from scipy.sparse import hstack

    names = [name for table in tables for name in table.names]
    return _Table(csr_matrix(hstack([csr_matrix((count, 0)), *(table.values for table in tables)])), names)


def _choosing(
    table: _Table, order: Callable[[np.ndarray], np.ndarray], rule: PruningRule
) -> Callable[[np.ndarray], set[Any]]:
    """What a rule chooses from the examples with some weights."""

    def chosen(weights: np.ndarray) -> set[Any]:
        means = table.values.T @ (weights / weights.sum())
        ranked = order(means)
        ranked = ranked[means[ranked] != 0]
        kept = ranked[rule(np.abs(means[ranked]))] if len(ranked) else ranked
        return {table.names[number] for number in kept}

    return chosen


def _shares(
    chosen: Callable[[np.ndarray], set[Any]], count: int, own: Sequence[Any], resamples: int, halves: int, seed: int
) -> tuple[dict[Any, float], float]:
    generator = np.random.default_rng(seed)
    times = dict.fromkeys(own, 0)
    for weights in generator.multinomial(count, np.full(count, 1 / count), size=resamples):
        for one in chosen(weights) & times.keys():
            times[one] += 1
    overlaps = []
    for _ in range(halves):
        half = np.isin(np.arange(count), generator.permutation(count)[: count // 2]).astype(float)
        first, second = chosen(half), chosen(1 - half)
        overlaps.append(len(first & second) / max(1, len(first | second)))
    return {one: number / resamples for one, number in times.items()}, float(np.mean(overlaps))
