"""fc.evaluate: faithfulness and completeness of a circuit, and of smaller circuits of every size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from featcircuits.circuit.circuit import Circuit
from featcircuits.circuit.influence import influence_in
from featcircuits.errors import InputError
from featcircuits.evaluation.ablated import (
    AblatedModel,
    Subgraph,
    check_error_nodes,
    circuit_subgraph,
    metric_model,
    ranks_of,
)
from featcircuits.evaluation.ablations import Ablation, name_of, prepared_ablation
from featcircuits.evaluation.curves import check_sizes, curve_of, default_sizes, shuffled, subgraphs_of_sizes
from featcircuits.evaluation.faithfulness import Reference, area, area_from_one, faithfulness, invalid_reason
from featcircuits.evaluation.intervals import interval, parts
from featcircuits.evaluation.report import Curve, Report
from featcircuits.evaluation.scope import COUNTED, scope_of, varying
from featcircuits.inputs.defaults import DRAWS
from featcircuits.inputs.ranges import SEEDS, Range, check_number
from featcircuits.inputs.renamed import takes_new_words
from featcircuits.model.nodes import Node, nodes_of
from featcircuits.model.sites import EMBED
from featcircuits.progress import Progress, silent
from featcircuits.provenance.belonging import check_circuit, check_nodes, check_task
from featcircuits.provenance.manifest import made_on
from featcircuits.provenance.prompts import compared
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.baselines import MEANS_ANYWHERE
from featcircuits.states.states import fitting_batch
from featcircuits.tasks.alignment import ANYWHERE
from featcircuits.tasks.behaviour import require_behaviour
from featcircuits.tasks.task import Task

MOST_DRAWS = 1000
"""The most draws; each is a random circuit with as many nodes, and a run at every size."""


@takes_new_words
def evaluate(
    spliced: SplicedModel,
    circuit: Circuit,
    task: Task,
    *,
    ablation: str | Ablation = "mean",
    error_nodes: str = "as-circuit",
    start_layer: int = 0,
    embed: bool | None = None,
    ranking: Circuit | Sequence[Node | str] | None = None,
    sizes: Sequence[int] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    batch_size: int | None = None,
    max_rows: int = 1024,
    check: bool = True,
    progress: Progress = silent,
) -> Report:
    """Measure faithfulness and completeness of a circuit on a task, as Marks et al. (2024, section 4) define them.

    `ablation`: "mean", "zero", "resample", "paired", or an object from `featcircuits.evaluation`.
    `error_nodes`: error nodes as in the circuit ("as-circuit"), all kept ("keep") or all ablated ("remove").
    Sizes and nodes count only nodes that the circuit decides on, so only features under the last two.
    `start_layer`: sites of earlier layers are not ablated, and neither is the embedding unless
    `start_layer` is 0 or `embed` says otherwise. `ranking`: nodes for the curve
    over sizes, in the order in which it adds them (a Circuit's own order); without it, those of the circuit.
    `sizes=()` leaves out the curve. The report says whether the circuit was traced on the same prompts,
    and whether it was traced on other sentences (`held_out`, `notes`).
    Raises `InputError` for unknown names and for a circuit of another model, suite, task or aggregate; with
    `check=False` neither weights nor tokenizers are compared.
    """
    check_task(spliced, task, check)
    check_circuit(spliced, circuit, check=check, whole=True)
    if isinstance(ranking, Circuit):
        check_circuit(spliced, ranking, "ranking", check=check, whole=True)
    check_error_nodes(error_nodes)
    check_number("draws", draws, Range(0, MOST_DRAWS))
    check_number("seed", seed, SEEDS)
    if ranking is not None and sizes is not None and not len(sizes):
        raise InputError("a ranking is for the curve, which sizes=() leaves out; leave out one of the two")
    scope = scope_of(spliced, start_layer, embed)
    check_match(circuit, task)
    require_behaviour(spliced, task)
    familiar = compared(circuit.manifest, task, spliced.tokenizer)
    order = varying(order_of(spliced, task, circuit if ranking is None else ranking), scope, error_nodes)
    chosen_sizes = default_sizes(order) if sizes is None else check_sizes(sizes, len(order))
    batch_size = fitting_batch(spliced, task, batch_size, most=32, gradients=False)
    prepared = prepared_ablation(ablation, scope, task, batch_size, seed)
    places: str | None = getattr(prepared, "places", None)
    ablated = AblatedModel(scope, prepared, error_nodes, start_layer, batch_size, max_rows)
    measured, folds = _measure(ablated, circuit, task), []
    if isinstance(ablation, str) and measured.invalid is None:
        folds = _folds(ablated, circuit, task, ablation, seed, order, chosen_sizes)
    curve = None
    if chosen_sizes:
        rankings = [order, *(shuffled(order, seed + draw) for draw in range(draws))]
        ranks, *controls = (ranks_of(scope, task.places, ranking) for ranking in rankings)
        metrics = ablated.metric(task, subgraphs_of_sizes(ranks, controls, chosen_sizes), progress)
        curve = _with_intervals(curve_of(metrics, chosen_sizes, measured.reference), folds)
    flow = influence_in(circuit)
    scores = flow.scores if flow else {}
    return Report(
        faithfulness=measured.faithfulness,
        completeness=measured.completeness,
        F_model=measured.reference.model,
        F_circuit=measured.F_circuit,
        F_empty=measured.reference.empty,
        F_complement=measured.F_complement,
        invalid=measured.invalid,
        interval=interval(measured.faithfulness, [fold.faithfulness for fold in folds]),
        folds=len(folds),
        features_alone=measured.features_alone,
        counted=COUNTED[error_nodes],
        n_nodes=len(varying(circuit.nodes, scope, error_nodes)),
        n_error_nodes=sum(node.site in scope.dictionaries and node.is_error for node in circuit.nodes),
        n_edges=_edges_in_scope(circuit, scope),
        replacement=scores.get("replacement"),
        graph_completeness=scores.get("completeness"),
        n_examples=len(task),
        task=task.name,
        metric=str(task.metric),
        ablation=name_of(ablation),
        ablation_places=places,
        error_nodes=error_nodes,
        start_layer=start_layer,
        embed=EMBED in scope.dictionaries,
        seed=seed,
        held_out=familiar.held_out,
        n_seen=familiar.n_seen,
        notes=(*familiar.notes, *([MEANS_ANYWHERE] if places == ANYWHERE else [])),
        curve=curve,
        made_on=made_on(spliced, task),
    )


class _Measured(NamedTuple):
    """The measurements of a circuit, its complement, and all features without error nodes."""

    reference: Reference
    F_circuit: float
    F_complement: float
    faithfulness: float
    completeness: float
    features_alone: float
    invalid: str | None
    """Why the ratios mean nothing here, or None."""


def _measure(ablated: AblatedModel, circuit: Circuit, task: Task) -> _Measured:
    own = circuit_subgraph(ablated.spliced, circuit, task.places)
    nothing, everything = Subgraph(own.ranks, 0), Subgraph(own.ranks, 0, complement=True)
    inside, complement, empty = ablated.metric(task, [own, Subgraph(own.ranks, own.size, complement=True), nothing])
    without_errors = replace(ablated, error_nodes="remove")
    all_features, no_features = without_errors.metric(task, [everything, nothing])
    model = metric_model(ablated.spliced, task, ablated.batch_size)

    F_model, F_circuit, F_complement = (float(metric.mean()) for metric in (model, inside, complement))
    reference = Reference(F_model, float(empty.mean()))
    return _Measured(
        reference=reference,
        F_circuit=F_circuit,
        F_complement=F_complement,
        faithfulness=faithfulness(F_circuit, reference),
        completeness=faithfulness(F_complement, reference),
        features_alone=faithfulness(float(all_features.mean()), Reference(F_model, float(no_features.mean()))),
        invalid=invalid_reason(model, empty),
    )


def check_match(circuit: Circuit, task: Task) -> None:
    """Raise `InputError` for a circuit whose places are not the task's."""
    if circuit.aggregate != task.aggregate:
        raise InputError(
            f"the circuit was traced with aggregate={circuit.aggregate!r}, the task has {task.aggregate!r}; "
            f"use task.with_options(aggregate={circuit.aggregate!r})"
        )
    task.check_places()
    if strange := [node for node in circuit.nodes if node.place not in task.places]:
        raise InputError(
            f"node {strange[0]} of the circuit is at a place that task {task.name!r} does not have "
            f"(it has {', '.join(map(str, task.places))})"
        )


def order_of(spliced: SplicedModel, task: Task, ranking: Circuit | Sequence[Node | str]) -> list[Node]:
    """The nodes of a ranking in its order; raises `InputError` for nodes that are not the model's and task's."""
    nodes = list(ranking.nodes) if isinstance(ranking, Circuit) else nodes_of(ranking)
    check_nodes(spliced, nodes, task.places)
    return nodes


def _edges_in_scope(circuit: Circuit, scope: SplicedModel) -> int:
    def inside(end: Node | str) -> bool:
        return not isinstance(end, Node) or end.site in scope.dictionaries

    return sum(inside(source) and inside(target) for source, target in circuit.edges)


class _Fold(NamedTuple):
    """The scores of one part of the examples: of the circuit, of every size, and the areas."""

    faithfulness: float
    by_size: list[float]
    area: float
    area_from_one: float


def _folds(
    ablated: AblatedModel,
    circuit: Circuit,
    task: Task,
    ablation: str,
    seed: int,
    order: Sequence[Node],
    sizes: Sequence[int],
) -> list[_Fold]:
    """The scores of each part, with ablation values drawn only from that part."""
    folds, ranks = [], ranks_of(ablated.spliced, task.places, order)
    for number, part in enumerate(parts(task)):
        prepared = prepared_ablation(ablation, ablated.spliced, part, ablated.batch_size, seed + number)
        own = replace(ablated, ablation=prepared)
        measured = _measure(own, circuit, part)
        metrics = own.metric(part, [Subgraph(ranks, size) for size in sizes]).mean(1).tolist() if sizes else []
        scores = [faithfulness(metric, measured.reference) for metric in metrics]
        areas = (area(sizes, scores), area_from_one(sizes, scores)) if sizes else (math.nan, math.nan)
        folds.append(_Fold(measured.faithfulness, scores, *areas))
    return folds


def _with_intervals(curve: Curve, folds: Sequence[_Fold]) -> Curve:
    by_size = [
        interval(center, [fold.by_size[number] for fold in folds]) for number, center in enumerate(curve.faithfulness)
    ]
    return replace(
        curve,
        intervals=tuple(by_size) if folds else None,
        area_interval=interval(curve.area, [fold.area for fold in folds]),
        area_from_one_interval=interval(curve.area_from_one, [fold.area_from_one for fold in folds]),
    )
