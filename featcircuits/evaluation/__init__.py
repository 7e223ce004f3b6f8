"""Evaluation: how much of a behaviour a circuit explains, measured by ablation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from featcircuits.circuit import Circuit
from featcircuits.errors import InputError
from featcircuits.evaluation.ablated import Subgraph, circuit_subgraph, metric_ablated, metric_model, ranks_of
from featcircuits.evaluation.ablations import ABLATIONS, Ablation, Resample, ablation_named
from featcircuits.evaluation.curves import check_sizes, curve, default_sizes
from featcircuits.evaluation.report import Curve, Report
from featcircuits.evaluation.scores import invalid_reason, share
from featcircuits.nodes import Node
from featcircuits.progress import Progress, silent
from featcircuits.sites import EMBED
from featcircuits.splice import SplicedModel
from featcircuits.tasks import Task

__all__ = ["ABLATIONS", "Ablation", "Curve", "Report", "Resample", "evaluate", "scope_of"]

_FOLDS = 5
_SMALLEST_FOLD = 8
_T_95 = 2.776
"""Student's t for a 95 % interval from five folds."""


def evaluate(
    spliced: SplicedModel,
    circuit: Circuit,
    task: Task,
    *,
    ablation: str | Ablation = "mean",
    errors: str = "nodes",
    start_layer: int = 0,
    embed: bool | None = None,
    ranking: Circuit | None = None,
    sizes: Sequence[int] | None = None,
    draws: int = 5,
    seed: int = 0,
    batch_size: int = 32,
    max_rows: int = 1024,
    progress: Progress = silent,
) -> Report:
    """Faithfulness and completeness of a circuit on a task, as Marks et al. (2024, section 4) define them.

    `ablation`: "mean", "zero", "resample", or an object from `featcircuits.evaluation.ablations`.
    `errors`: error nodes as the circuit says ("nodes"), all kept ("keep") or all ablated ("remove").
    `start_layer`: sites of earlier layers are given for free, and so is the embedding unless
    `start_layer` is 0 or `embed` says otherwise. `ranking`: all nodes with their effects, for the
    curve over sizes; without it the circuit's own nodes are ranked. `sizes=()` leaves the curve out.
    """
    scope = scope_of(spliced, start_layer, embed)
    _check_match(circuit, task)
    prepared = ablation_named(ablation, scope, task, batch_size, seed)

    def run(subgraphs: Sequence[Subgraph], how: str = errors, progress: Progress = silent) -> Tensor:
        return metric_ablated(
            scope, task, subgraphs, prepared,
            errors=how, start_layer=start_layer, batch_size=batch_size, max_rows=max_rows, progress=progress,
        )  # fmt: skip

    own = circuit_subgraph(scope, circuit, task.places)
    inside, complement, empty = run([own, Subgraph(own.ranks, own.size, True), Subgraph(own.ranks, 0)])
    everything = Subgraph(own.ranks, 0, complement=True)
    all_features = run([everything], "remove")[0]
    no_features = run([Subgraph(own.ranks, 0)], "remove")[0]
    model = metric_model(spliced, task, batch_size)
    F_model, F_empty = float(model.mean()), float(empty.mean())
    invalid = invalid_reason(model, empty)

    def score(found: Tensor, empty: float = F_empty) -> float:
        return math.nan if invalid else share(float(found.mean()), F_model, empty)

    order = _ranked_nodes(ranking or circuit, scope)
    sizes = default_sizes(len(order)) if sizes is None else check_sizes(sizes, len(order))
    found_curve = None
    if sizes and not invalid:
        found_curve = curve(
            lambda subgraphs: run(subgraphs, progress=progress),
            lambda order: ranks_of(scope, task.places, order),
            order, sizes, F_model, F_empty, draws, seed,
        )  # fmt: skip
    folds = _fold_scores(spliced, circuit, task, ablation, errors, start_layer, embed, seed, batch_size)
    nodes = [node for node in circuit.nodes if node.site in scope.dictionaries]
    return Report(
        faithfulness=score(inside),
        completeness=score(complement),
        F_model=F_model,
        F_circuit=float(inside.mean()),
        F_empty=F_empty,
        F_complement=float(complement.mean()),
        invalid=invalid,
        interval=None if invalid or not folds else _interval(score(inside), folds),
        folds=len(folds),
        cap=score(all_features, float(no_features.mean())),
        n_nodes=len(nodes),
        n_error_nodes=sum(node.is_error for node in nodes),
        n_edges=_edges_in_scope(circuit, scope),
        n_examples=len(task),
        task=task.name,
        metric=task.metric,
        ablation=ablation if isinstance(ablation, str) else type(ablation).__name__.lower(),
        errors=errors,
        start_layer=start_layer,
        embed=EMBED in scope.dictionaries,
        seed=seed,
        curve=found_curve,
    )


def scope_of(spliced: SplicedModel, start_layer: int, embed: bool | None = None) -> SplicedModel:
    """The sites that are ablated; refuses a start layer that leaves none."""
    n_layers = spliced.architecture.n_layers
    if not 0 <= start_layer < n_layers:
        raise InputError(f"start_layer is {start_layer}; the model has layers 0 to {n_layers - 1}")
    if embed and start_layer > 0:
        raise InputError("embed=True needs start_layer=0: a later start does not run the embedding again")
    with_embed = start_layer == 0 if embed is None else embed
    scope = spliced.only(site for site in spliced.sites if (site.layer >= start_layer or (site == EMBED and with_embed)))
    if not scope.dictionaries:
        raise InputError(f"start_layer is {start_layer}: the suite has no dictionary from there on")
    return scope


def _check_match(circuit: Circuit, task: Task) -> None:
    task.check_places()
    if circuit.aggregate != task.aggregate:
        raise InputError(
            f"the circuit was traced with aggregate={circuit.aggregate!r}, the task has {task.aggregate!r}; "
            f"use task.with_options(aggregate={circuit.aggregate!r})"
        )
    if strange := [node for node in circuit.nodes if node.place not in task.places]:
        raise InputError(
            f"node {strange[0]} of the circuit stands at a place that task {task.name!r} does not have "
            f"(it has {', '.join(map(str, task.places))})"
        )


def _ranked_nodes(ranking: Circuit, scope: SplicedModel) -> list[Node]:
    """Nodes in scope, strongest |effect| first; ties in node order."""
    nodes = [(node, score.effect) for node, score in ranking.nodes.items() if node.site in scope.dictionaries]
    return [node for node, effect in sorted(nodes, key=lambda item: -abs(item[1]))]


def _edges_in_scope(circuit: Circuit, scope: SplicedModel) -> int:
    def inside(end: Node | str) -> bool:
        return not isinstance(end, Node) or end.site in scope.dictionaries

    return sum(inside(source) and inside(target) for source, target in circuit.edges)


def _fold_scores(
    spliced: SplicedModel,
    circuit: Circuit,
    task: Task,
    ablation: str | Ablation,
    errors: str,
    start_layer: int,
    embed: bool | None,
    seed: int,
    batch_size: int,
) -> list[float]:
    """Faithfulness of each of five interleaved parts, with ablation values drawn from the part alone."""
    if len(task) < _FOLDS * _SMALLEST_FOLD or not isinstance(ablation, str):
        return []
    scope, scores = scope_of(spliced, start_layer, embed), []
    for fold in range(_FOLDS):
        part = task.with_options(examples=task.examples[fold::_FOLDS])
        prepared = ablation_named(ablation, scope, part, batch_size, seed + fold)
        own = circuit_subgraph(scope, circuit, part.places)
        inside, empty = metric_ablated(
            scope, part, [own, Subgraph(own.ranks, 0)], prepared,
            errors=errors, start_layer=start_layer, batch_size=batch_size,
        )  # fmt: skip
        model = float(metric_model(spliced, part, batch_size).mean())
        scores.append(share(float(inside.mean()), model, float(empty.mean())))
    return [score for score in scores if math.isfinite(score)]


def _interval(center: float, folds: Sequence[float]) -> tuple[float, float] | None:
    if len(folds) < _FOLDS:
        return None
    half = _T_95 * float(np.std(folds, ddof=1)) / math.sqrt(len(folds))
    return center - half, center + half
