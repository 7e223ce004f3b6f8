"""fc.trace: from a model and a task to a circuit, by node effects, their order, edge effects and pruning."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch

from featcircuits.circuit.circuit import Circuit
from featcircuits.circuit.influence import influence_in
from featcircuits.circuit.pruning import ByInfluence, PruningRule, beginning, chosen_edges, reachable
from featcircuits.circuit.shares import error_shares
from featcircuits.effects.direct import arcs_of
from featcircuits.effects.edges import edge_effects
from featcircuits.effects.nodes import node_effects
from featcircuits.effects.results import NodeEffects
from featcircuits.errors import InputError
from featcircuits.estimators.estimator import Estimator
from featcircuits.evaluation.scope import scope_of
from featcircuits.files.html import html_table
from featcircuits.health.trace import check_states
from featcircuits.inputs.arguments import expect
from featcircuits.inputs.defaults import KEEP_EDGES, KEEP_NODES
from featcircuits.inputs.renamed import takes_new_words
from featcircuits.model.nodes import Node, input_node
from featcircuits.model.sites import in_ranges
from featcircuits.progress import Progress, silent
from featcircuits.provenance.belonging import check_task, identity_of, request_of
from featcircuits.provenance.manifest import manifest_of
from featcircuits.runs.ledger import Ledger, Stamped
from featcircuits.selection import DEFAULT_SELECTION
from featcircuits.selection.evidence import Evidence
from featcircuits.selection.rule import SelectionRule
from featcircuits.selection.select import ordered, scores_of
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.baselines import Baseline
from featcircuits.states.states import fitting_batch
from featcircuits.tasks.behaviour import require_behaviour
from featcircuits.tasks.task import Task
from featcircuits.tracing.plan import SAME, Plan, planned
from featcircuits.tracing.prompt import prompt_record

ORDER = "order"
"""The name of the selected order in a ledger."""


class Counts(NamedTuple):
    """How many nodes have an effect, were chosen by the rule, and have a path to the metric; the same for edges."""

    nodes: int
    nodes_chosen: int
    nodes_kept: int
    edges: int = 0
    edges_chosen: int = 0
    edges_kept: int = 0

    @property
    def record(self) -> dict[str, dict[str, int]]:
        """The counts as a manifest has them."""
        rows = {"nodes": self[:3], "edges": self[3:]}
        return {
            what: {"all": every, "chosen": chosen, "dropped": chosen - kept, "kept": kept}
            for what, (every, chosen, kept) in rows.items()
        }


class Trace(NamedTuple):
    """The result of a trace: the pruned `circuit`, and `ranking`, every node with an effect in order, without edges."""

    circuit: Circuit
    ranking: Circuit
    counts: Counts

    def _repr_html_(self) -> str:
        """What notebooks show: the circuit, and what was left out of it."""
        rows = [
            [what, *(f"{row[name]:,}" for name in ("all", "chosen", "dropped", "kept"))]
            for what, row in self.counts.record.items()
            if row["all"]
        ]
        header = ("", "with an effect", "chosen", "without a path to the metric", "kept")
        return html_table(rows, header, numbers=range(1, 5)) + self.circuit._repr_html_()


class EmptyCircuit(InputError):
    """The circuit would be empty; the message says what to ask for instead."""


@takes_new_words
def trace(
    spliced: SplicedModel,
    task: Task,
    *,
    nodes: str | Estimator | None = None,
    edges: str | Estimator | None = SAME,
    keep_nodes: str | PruningRule | None = None,
    keep_edges: str | PruningRule | None = None,
    select: str | SelectionRule = DEFAULT_SELECTION,
    start_layer: int = 0,
    baseline: Baseline = "paired",
    error_effects: str = "estimated",
    batch_size: int | None = None,
    seed: int = 0,
    check_fit: bool = True,
    check: bool = True,
    ledger: Ledger | None = None,
    progress: Progress = silent,
) -> Trace:
    """Trace a circuit: compute node effects, order and keep nodes, compute edge effects among them, and keep edges.

    `nodes`, `edges`: estimators, as values or as text with options after colons ("ig:steps=5:quadrature=gauss");
    nodes by default as for `node_effects`, edges "same" as the nodes', or None for a circuit of nodes alone.
    `keep_nodes` ("top=150" by default), `keep_edges` ("top=1000"): pruning rules, "top=100", "threshold=0.1",
    "cumulative=0.8" or "influence=0.8": nodes and edges by their influence along all paths among the first 2,000 nodes
    ("influence=0.8:of=500" for another number; featcircuits.circuit.influence). `select`: the rule that orders the
    nodes, "effect" by |effect| or another with its options ("ratio:positive=0.8", see featcircuits.selection); "top"
    and "cumulative" keep the first nodes of that order, "threshold" those with the effect. `start_layer`: the start
    layer of the later evaluation; the nodes of layers before it come last in the order. `baseline`, `error_effects`: as
    for `node_effects`.
    `ledger`: where finished batches are kept, to resume or to split the work (featcircuits.runs.ledger).
    `batch_size`: examples at once; by default as many as fit, 16 at most.
    `check_fit`: refuse dictionaries that leave more than all variance unexplained in the first batch, and warn of
    those that explain another site much better (featcircuits.health), before any effect is computed.
    `check`: refuse a task that was made with a tokenizer other than the model's.
    Nodes without a path of kept edges to the metric are dropped. The manifest has the numbers of chosen, dropped
    and kept nodes and edges under "counts", and under "graph" the scores of the graph before it is pruned. Raises
    `InputError` if nothing would be left.
    """
    plan = planned(
        nodes=nodes, edges=edges, keep_nodes=keep_nodes, keep_edges=keep_edges, select=select, start_layer=start_layer,
        baseline=baseline, error_effects=error_effects, batch_size=batch_size, seed=seed,
    )  # fmt: skip
    return traced(spliced, task, plan, check_fit=check_fit, check=check, ledger=ledger, progress=progress)


def traced(
    spliced: SplicedModel,
    task: Task,
    plan: Plan,
    *,
    check_fit: bool = True,
    check: bool = True,
    ledger: Ledger | None = None,
    progress: Progress = silent,
) -> Trace:
    """Trace a circuit by a plan."""
    expect("task", task, Task)
    plan = plan.for_task(task)
    check_task(spliced, task, check)
    scope_of(spliced, plan.start_layer)
    require_behaviour(spliced, task)
    plan = replace(plan, batch_size=fitting_batch(spliced, task, plan.batch_size))
    effects = node_effects(
        spliced, task, plan.nodes,
        baseline=plan.patched_in, error_effects=plan.error_effects, batch_size=plan.batch_size, keep_examples=False,
        ledger=ledger, inspect=partial(check_states, spliced, where=task.name) if check_fit else None,
        check=check, progress=progress,
    )  # fmt: skip
    ranking = _ranking(spliced, task, effects, plan, ledger, progress)
    kept = beginning(ranking, plan.keep_nodes)
    _check_nodes(ranking, kept, plan.keep_nodes)
    if plan.edges is None:
        kept = replace(kept, manifest={**kept.manifest, **prompt_record(spliced, task, effects, kept)})
        return _counted(Counts(ranking.n_nodes, kept.n_nodes, kept.n_nodes), kept, ranking)
    found = edge_effects(
        spliced, task, kept.nodes, plan.edges,
        effects=effects, baseline=plan.patched_in, batch_size=plan.batch_size,
        ledger=ledger, check=False, progress=progress,  # the effects are this model's
    )  # fmt: skip
    weights = {(source, target): weight for source, target, weight in found.edges() if weight != 0}
    whole = replace(kept, edges={**_input_edges(kept), **weights})
    flow = influence_in(whole)
    among = plan.keep_nodes.nodes_of(whole) if flow and isinstance(plan.keep_nodes, ByInfluence) else whole
    chosen = chosen_edges(among, plan.keep_edges, whole) if flow else among
    circuit = reachable(chosen)
    counts = Counts(ranking.n_nodes, among.n_nodes, circuit.n_nodes, among.n_edges, chosen.n_edges, circuit.n_edges)
    if not circuit.nodes:
        raise EmptyCircuit(_why_empty(spliced, ranking, among, chosen, plan.keep_edges))
    prompt = prompt_record(spliced, task, effects, circuit)
    scores = {} if flow is None else {"graph": {**flow.scores, "nodes": whole.n_nodes, "edges": whole.n_edges}}
    return _counted(counts, replace(circuit, manifest={**circuit.manifest, **scores, **prompt}), ranking)


def _counted(counts: Counts, circuit: Circuit, ranking: Circuit) -> Trace:
    """The trace with its counts in the circuit's manifest, and how much of all |effect| errors carry."""
    told = {"counts": counts.record, "error_share": error_shares(ranking)}
    return Trace(replace(circuit, manifest={**circuit.manifest, **told}), ranking, counts)


def _check_nodes(ranking: Circuit, kept: Circuit, rule: PruningRule) -> None:
    """Raise `InputError` for a rule that keeps no node, and for a ranking without nodes."""
    if not ranking.nodes:
        raise EmptyCircuit(
            "no node has an effect on the metric, so there is no circuit: check that the two prompts of each pair "
            "differ, and that the suite has sites on the path from where they differ to the answer"
        )
    if not kept.nodes:
        most = max(abs(score.effect) for score in ranking.nodes.values())
        raise EmptyCircuit(
            f"keep_nodes {rule} keeps none of {ranking.n_nodes} nodes, the strongest of which has |effect| {most:.3g}; "
            f"give a smaller threshold, or a number of nodes such as {KEEP_NODES}"
        )


def _why_empty(spliced: SplicedModel, ranking: Circuit, whole: Circuit, chosen: Circuit, rule: PruningRule) -> str:
    """The message for edges that leave an empty circuit, with what to ask for instead."""
    if not whole.edges:
        why = f"there is no edge among the {whole.n_nodes} nodes kept, and none from them to the metric"
    elif not chosen.edges:
        most = max(map(abs, whole.edges.values()))
        return (
            f"keep_edges {rule} keeps none of {whole.n_edges} edges, the strongest of which has |weight| {most:.3g}; "
            f"give a smaller threshold, or a number of edges such as {KEEP_EDGES}"
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


def _ranking(
    spliced: SplicedModel, task: Task, effects: NodeEffects, plan: Plan, ledger: Ledger | None, progress: Progress
) -> Circuit:
    """All nodes with an effect in the selected order, as a circuit without edges."""
    evidence = Evidence(spliced, task, effects, scores_of(effects), plan.seed, progress, plan.start_layer)
    return Circuit(
        nodes={node: evidence.scores[node] for node in _ordered(evidence, plan, ledger)},
        edges={},
        places=task.places,
        aggregate=task.aggregate,
        manifest=manifest_of(spliced, task, plan.record, effects.identity),
    )


def _ordered(evidence: Evidence, plan: Plan, ledger: Ledger | None) -> list[Node]:
    """The nodes in the selected order, computed once, so that several processes cannot differ by rounding."""
    asked = (plan.nodes, plan.patched_in, plan.error_effects, plan.batch_size, plan.select, plan.start_layer, plan.seed)
    if ledger is None:
        return ordered(evidence, plan.select)
    identity = evidence.effects.identity or identity_of(evidence.spliced)
    stamped = Stamped(ledger, request_of(identity, evidence.task, *asked))
    nodes = list(evidence.scores)
    for number in stamped.todo(ORDER, 1):
        order = ordered(evidence, plan.select)
        place = {node: index for index, node in enumerate(nodes)}
        stamped.put(ORDER, number, {"order": torch.tensor([place[node] for node in order], dtype=torch.long)})
    return [nodes[index] for index in stamped.parts(ORDER, 1)[0]["order"].tolist()]


def _input_edges(circuit: Circuit) -> dict[tuple[Node | str, Node | str], float]:
    """The edges from inputs: the token at a place has the effects of all the embedding's nodes there."""
    embedded = ((node, score) for node, score in circuit.nodes.items() if node.site.kind == "embed")
    return {(input_node(node.place), node): score.effect for node, score in embedded}
