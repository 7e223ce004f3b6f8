"""fc.trace: from a model and a task to a circuit: node effects, their order, edge effects, and what is kept of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch

from featcircuits.circuit.circuit import Circuit, NodeScore
from featcircuits.circuit.pruning import Rule, beginning, chosen_edges, parse_rule, reachable
from featcircuits.effects.direct import arcs_of
from featcircuits.effects.edges import edge_effects, edge_estimator
from featcircuits.effects.nodes import NodeEffects, check_errors, node_effects
from featcircuits.errors import InputError
from featcircuits.estimators import Method, check_method, default_method
from featcircuits.evaluation.scope import scope_of
from featcircuits.health.trace import check_states
from featcircuits.inputs.arguments import expect
from featcircuits.inputs.ranges import SEEDS, Range, check_number
from featcircuits.model.nodes import Node, input_node
from featcircuits.model.sites import in_ranges
from featcircuits.progress import Progress, silent
from featcircuits.provenance.belonging import check_task, identity_of, request_of
from featcircuits.provenance.manifest import manifest_of
from featcircuits.runs.ledger import InMemory, Ledger, Stamped
from featcircuits.selection import DEFAULT_SELECTION, Selection, select_with, selection_named
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.baselines import Baseline, check_baseline
from featcircuits.states.states import fitting_batch
from featcircuits.tasks.behaviour import require_behaviour
from featcircuits.tasks.corruption import Noise
from featcircuits.tasks.task import Task

DEFAULT_NODES = "top=150"
DEFAULT_EDGES = "top=1000"

ORDER = "order"
"""The name in a ledger of the selected order."""


class Counts(NamedTuple):
    """Of all nodes with an effect those that the rule chose, of these those with a path to the metric; so of edges."""

    nodes: int
    nodes_chosen: int
    nodes_kept: int
    edges: int = 0
    edges_chosen: int = 0
    edges_kept: int = 0

    @property
    def record(self) -> dict[str, dict[str, int]]:
        """As it stands in a manifest."""
        rows = {"nodes": self[:3], "edges": self[3:]}
        return {
            what: {"all": every, "chosen": chosen, "dropped": chosen - kept, "kept": kept}
            for what, (every, chosen, kept) in rows.items()
        }


class Trace(NamedTuple):
    """`circuit`: the pruned graph. `ranking`: every node with an effect, as selected, and no edges."""

    circuit: Circuit
    ranking: Circuit
    counts: Counts


class EmptyCircuit(InputError):
    """Nothing would be left of the circuit; the message says what to ask for instead."""


def trace(spliced: SplicedModel, task: Task, **options: Any) -> Circuit:
    """The circuit of a task; options as in `trace_with_ranking`."""
    return trace_with_ranking(spliced, task, **options).circuit


def trace_with_ranking(
    spliced: SplicedModel,
    task: Task,
    *,
    nodes: str | None = None,
    edges: str | None = "same",
    keep_nodes: str | None = None,
    keep_edges: str | None = None,
    node_threshold: float | None = None,
    edge_threshold: float | None = None,
    select: str = DEFAULT_SELECTION,
    start_layer: int = 0,
    baseline: Baseline = "paired",
    errors: str = "estimated",
    batch_size: int | None = None,
    seed: int = 0,
    check_fit: bool = True,
    check: bool = True,
    ledger: Ledger | None = None,
    progress: Progress = silent,
    **options: Any,
) -> Trace:
    """Node effects, their order and those to keep, edge effects among them, edges to keep, and the circuit.

    `nodes`, `edges`: estimators by name, with options after colons ("ig:steps=5:rule=gauss"); nodes by default
    as for `node_effects`, edges "same" as the nodes', or None for a circuit of nodes alone. `keep_nodes`,
    `keep_edges`: pruning rules ("top=100", "threshold=0.1", "cumulative=0.8"), or thresholds given as numbers.
    `select`: the rule that orders the nodes, "effect" by |effect| or another with its options
    ("ratio:positive=0.8", see featcircuits.selection); "top" and "cumulative" keep the first of that order,
    "threshold" what has the effect. `start_layer`: layers before it will be given when the circuit is evaluated, so
    that their nodes come last in the order. `errors`: as for `node_effects`; other `options` go to the node estimator.
    `ledger`: where finished batches are kept, to resume or to split the work (featcircuits.runs.ledger).
    `batch_size`: examples at once; by default as many as fit, 16 at most.
    `check_fit`: refuse dictionaries that leave more than all variance unexplained in the first batch, and warn of
    those that explain another site much better (featcircuits.health), before anything is attributed to features.
    `check`: refuse a task that another tokenizer than the model's made.
    Nodes that no path of kept edges leads from to the metric are dropped. How many nodes and edges were chosen,
    dropped and kept is in the manifest, under "counts". Raises `InputError` where none would be left.
    """
    expect("task", task, Task)
    nodes = nodes or default_method(task.paired, baseline)
    node_rule, edge_rule = rules_of(edges, keep_nodes, keep_edges, node_threshold, edge_threshold)
    plan = planned(nodes, edges, select, node_rule, edge_rule, errors, options)
    check_number("seed", seed, SEEDS)
    plan.check(task, baseline)
    check_task(spliced, task, check)
    scope_of(spliced, start_layer)
    require_behaviour(spliced, task)
    named, baseline = str(baseline), Noise(seed=seed) if baseline == "noise" else baseline
    batch_size = fitting_batch(spliced, task, batch_size)
    effects = node_effects(
        spliced, task, plan.nodes.name,
        baseline=baseline, errors=errors, batch_size=batch_size, keep_examples=False, keep_states=edges is not None,
        ledger=ledger, inspect=partial(check_states, spliced, where=task.name) if check_fit else None,
        check=check, progress=progress, **plan.nodes.options,
    )  # fmt: skip
    settings = {
        "nodes": plan.nodes.name, "edges": plan.nodes.name if edges == "same" else edges, "options": plan.nodes.options,
        "baseline": named, "errors": errors, "select": select, "start_layer": start_layer,
        "keep_nodes": node_rule, "keep_edges": edge_rule, "batch_size": batch_size, "seed": seed,
    }  # fmt: skip
    asked = request_of(identity_of(spliced), task, *plan.nodes, baseline, errors, batch_size, select, start_layer, seed)
    order = _ordered(
        Stamped(ledger or InMemory(), asked), effects,
        lambda: select_with(plan.select, spliced, task, effects, start_layer=start_layer, seed=seed, progress=progress),
    )  # fmt: skip
    ranking = _ranking(spliced, task, effects, order, settings)
    kept = beginning(ranking, plan.keep_nodes)
    _check_nodes(ranking, kept, node_rule)
    if plan.edges is None:
        return _counted(Counts(ranking.n_nodes, kept.n_nodes, kept.n_nodes), kept, ranking)
    found = edge_effects(
        spliced, task, kept.nodes,
        method=plan.edges.name, effects=effects, baseline=baseline, batch_size=batch_size,
        ledger=ledger, check=check, progress=progress, **plan.edges.options,
    )  # fmt: skip
    weights = {(source, target): weight for source, target, weight in found.edges() if weight != 0}
    whole = replace(kept, edges={**_input_edges(kept), **weights})
    chosen = chosen_edges(whole, plan.keep_edges)
    circuit = reachable(chosen)
    counts = Counts(ranking.n_nodes, kept.n_nodes, circuit.n_nodes, whole.n_edges, chosen.n_edges, circuit.n_edges)
    if not circuit.nodes:
        raise EmptyCircuit(_why_empty(spliced, ranking, whole, chosen, edge_rule))
    return _counted(counts, circuit, ranking)


def _counted(counts: Counts, circuit: Circuit, ranking: Circuit) -> Trace:
    """With the counts in the circuit's manifest."""
    return Trace(replace(circuit, manifest={**circuit.manifest, "counts": counts.record}), ranking, counts)


def _check_nodes(ranking: Circuit, kept: Circuit, rule: str) -> None:
    """Refuse a rule that keeps no node, and a ranking without any."""
    if not ranking.nodes:
        raise EmptyCircuit(
            "no node has an effect on the metric, so that there is no circuit: check that the two prompts of each pair "
            "differ, and that the suite has sites on the way from where they differ to the answer"
        )
    if not kept.nodes:
        most = max(abs(score.effect) for score in ranking.nodes.values())
        raise EmptyCircuit(
            f"keep_nodes {rule} keeps none of {ranking.n_nodes} nodes, the strongest of which has |effect| {most:.3g}; "
            f"give a smaller threshold, or a number of nodes such as {DEFAULT_NODES}"
        )


def _why_empty(spliced: SplicedModel, ranking: Circuit, whole: Circuit, chosen: Circuit, rule: str) -> str:
    """What is wrong where edges leave nothing, and what to ask for instead."""
    if not whole.edges:
        why = f"there is no edge among the {whole.n_nodes} nodes kept, and none from them to the metric"
    elif not chosen.edges:
        most = max(map(abs, whole.edges.values()))
        return (
            f"keep_edges {rule} keeps none of {whole.n_edges} edges, the strongest of which has |weight| {most:.3g}; "
            f"give a smaller threshold, or a number of edges such as {DEFAULT_EDGES}"
        )
    else:
        why = (
            f"{whole.n_nodes} nodes and {chosen.n_edges} of {whole.n_edges} edges were chosen, and no path of these "
            "edges leads from any of the nodes to the metric"
        )
    last = {arc.upstream for arc in arcs_of(spliced) if arc.downstream is None}
    ranks = (rank for rank, node in enumerate(ranking.nodes, 1) if node.site in last)
    first = next((rank for rank in ranks if rank > whole.n_nodes), None)
    fewer = f"top={first} would add the first node more at a site that the metric reads ({in_ranges(last)})"
    more = fewer if first else f"the metric reads {in_ranges(last)}"
    return f"{why}, so that nothing would be left. Keep more nodes or edges ({more}), or trace without edges"


class Plan(NamedTuple):
    """What is asked of a trace, read; `edges` is None for a circuit of nodes alone."""

    nodes: Method
    edges: Method | None
    select: Selection
    keep_nodes: Rule
    keep_edges: Rule

    def check(self, task: Task, baseline: Baseline) -> None:
        """Refuse what a method or a rule needs and the task does not have."""
        check_baseline(task, baseline)
        for method in filter(None, (self.nodes, self.edges)):
            check_method(method.name, method.build(), task, baseline)
        self.select.check(task, baseline)
        task.check_places()


def planned(
    nodes: str,
    edges: str | None,
    select: str,
    keep_nodes: str,
    keep_edges: str,
    errors: str,
    options: Mapping[str, Any],
) -> Plan:
    """What needs neither model nor task, from texts as `trace_with_ranking` takes them; raises `InputError`."""
    method = Method.parse(nodes).adding(options)
    drawn = method if edges == "same" else None if edges is None else Method.parse(edges)
    if drawn is not None:
        edge_estimator(drawn.name, drawn.options)
    check_errors(errors)
    return Plan(method, drawn, selection_named(select), parse_rule(keep_nodes), parse_rule(keep_edges))


def _ordered(ledger: Ledger, effects: NodeEffects, select: Callable[[], list[Node]]) -> list[Node]:
    """The nodes in a selected order, found once: several processes must not differ in it by rounding."""
    nodes = [node for node, _, _ in effects.nodes()]
    for number in ledger.todo(ORDER, 1):
        place = {node: index for index, node in enumerate(nodes)}
        ledger.put(ORDER, number, {"order": torch.tensor([place[node] for node in select()], dtype=torch.long)})
    return [nodes[index] for index in ledger.parts(ORDER, 1)[0]["order"].tolist()]


def rules_of(
    edges: str | None,
    keep_nodes: str | None,
    keep_edges: str | None,
    node_threshold: float | None = None,
    edge_threshold: float | None = None,
) -> tuple[str, str]:
    """The pruning rules of nodes and edges as texts; refuses one given twice, or for edges that there are not."""
    if edges is None and (keep_edges is not None or edge_threshold is not None):
        raise InputError(
            "a rule for edges was given (keep_edges or edge_threshold), but the circuit is of nodes alone (edges is "
            "none); leave the rule out, or ask for edges"
        )
    nodes = _rule(keep_nodes, node_threshold, DEFAULT_NODES, "node")
    return nodes, _rule(keep_edges, edge_threshold, DEFAULT_EDGES, "edge")


def _rule(rule: str | None, threshold: float | None, default: str, what: str) -> str:
    if rule is not None and threshold is not None:
        raise InputError(f"give either keep_{what}s or {what}_threshold, not both")
    if threshold is None:
        return default if rule is None else rule
    check_number(f"{what}_threshold", threshold, Range(0, 1e30), float)
    return f"threshold={threshold}"


def _ranking(
    spliced: SplicedModel, task: Task, effects: NodeEffects, order: list[Node], settings: dict[str, Any]
) -> Circuit:
    """All nodes with an effect in the order selected, as a circuit without edges."""
    scores = {node: NodeScore(effect, error) for node, effect, error in effects.nodes()}
    return Circuit(
        nodes={node: scores[node] for node in order},
        edges={},
        places=task.places,
        aggregate=task.aggregate,
        manifest=manifest_of(spliced, task, settings),
    )


def _input_edges(circuit: Circuit) -> dict[tuple[Node | str, Node | str], float]:
    """The token at a place carries everything that the embedding's nodes there do."""
    embedded = ((node, score) for node, score in circuit.nodes.items() if node.site.kind == "embed")
    return {(input_node(node.place), node): score.effect for node, score in embedded}
