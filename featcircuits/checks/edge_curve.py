"""fc.edge_curve: how much of the behaviour the strongest edges of a circuit carry, and how much is lost without them.

An edge circuit computes every node from its parents along the circuit's edges; all else that the node reads is at the
ablation's value (`featcircuits.checks.paths` is the special case of all edges under paired ablation).

    f_edges(k) = (F(k edges) - F(0 edges)) / (F(model) - F(0 edges))

F(0 edges) is F(empty): every node at its ablation value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from featcircuits.checks.edge_plan import (
    Edge,
    edges_in_order,
    nodes_in_order,
    planned,
    shuffled_edges,
)
from featcircuits.checks.edge_runs import count_without, run_plan, run_without
from featcircuits.circuit.circuit import Circuit
from featcircuits.errors import InputError
from featcircuits.evaluation.ablated import AblatedModel, Subgraph, metric_model, ranks_of
from featcircuits.evaluation.ablations import Ablation, Zero, name_of, prepared_ablation
from featcircuits.evaluation.curves import mean_and_spread
from featcircuits.evaluation.faithfulness import Reference, area, area_from_one, faithfulness, invalid_reason
from featcircuits.evaluation.intervals import FOLDS, SMALLEST_TASK, interval
from featcircuits.evaluation.scope import scope_of
from featcircuits.files.plain import plain
from featcircuits.inputs.defaults import DRAWS, MOST_EDGE_ROWS
from featcircuits.inputs.ranges import MOST, SEEDS, Range, check_number
from featcircuits.model.nodes import Endpoint
from featcircuits.progress import Progress, silent
from featcircuits.provenance.belonging import check_circuit, check_task
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.states import fitting_batch
from featcircuits.tasks.behaviour import require_behaviour
from featcircuits.tasks.task import Task

_POINTS = 12


@dataclass(frozen=True)
class EdgeCurve:
    """Scores of the first `sizes` edges in an order; all are shares of F(model) - F(empty), and none is clipped.

    `faithfulness`: f of these edges. `nodes`: f of their ends with every connection among them, so `price` is what
    dropping the other edges costs. `random`, `random_sd`: f of random edges of the circuit, as many in every
    connection; the mean over draws and the spread, NaN without draws or with one. `necessity`: f of the whole model
    without these edges: 1 if nothing needs them, 0 if nothing is left. Empty if it was not asked for.
    `intervals`: 95 %, of `faithfulness`, from five parts of the examples under the same ablation values.
    `area`, `area_from_one`: the mean of f and of |1 - f| over sizes from 0 to the last. `invalid`: why the shares mean
    nothing, or None. `n_rows`: how many forward rows each example took.
    """

    sizes: tuple[int, ...]
    faithfulness: tuple[float, ...]
    intervals: tuple[tuple[float, float] | None, ...]
    nodes: tuple[float, ...]
    n_nodes: tuple[int, ...]
    random: tuple[float, ...]
    random_sd: tuple[float, ...]
    draws: int
    necessity: tuple[float, ...]
    area: float
    area_from_one: float
    area_nodes: float
    area_random: float
    F_model: float
    F_empty: float
    invalid: str | None
    n_edges: int
    n_examples: int
    n_rows: int
    task: str
    metric: str
    ablation: str
    ablation_places: str | None
    order: str
    start_layer: int
    seed: int

    @property
    def price(self) -> tuple[float, ...]:
        """What dropping the other edges among the same nodes costs, at each size: f(nodes) - f(edges)."""
        return tuple(nodes - edges for nodes, edges in zip(self.nodes, self.faithfulness, strict=True))

    def to_json(self) -> dict[str, Any]:
        """The curve as plain JSON values; meaningless shares, and NaN, become null."""
        void = dict.fromkeys(_SHARES) if self.invalid else {}
        return plain({**asdict(self), "price": self.price, **void})


_SHARES = (
    "faithfulness", "intervals", "nodes", "random", "random_sd", "necessity", "price", "area", "area_from_one",
    "area_nodes", "area_random",
)  # fmt: skip


def edge_curve(
    spliced: SplicedModel,
    task: Task,
    circuit: Circuit,
    *,
    ablation: str | Ablation | None = None,
    order: str | Sequence[tuple[Endpoint, Endpoint]] = "absolute",
    sizes: Sequence[int] | None = None,
    draws: int = DRAWS,
    necessity: bool = True,
    start_layer: int = 0,
    seed: int = 0,
    batch_size: int | None = None,
    max_rows: int = 512,
    most_rows: int = MOST_EDGE_ROWS,
    check: bool = True,
    progress: Progress = silent,
) -> EdgeCurve:
    """Judge the edges of a circuit causally: f of the first k edges, of their nodes, of random edges, and without them.

    `ablation`: what a missing edge carries, as for `fc.evaluate`; default "paired" for pairs, else "mean".
    `order`: "absolute" (by |effect|), "signed" (positive effects first: those edges carry the behaviour), or a list of
    the circuit's edges. Edges from inputs are no part of it, since inputs stay clean. `sizes`: numbers of edges;
    default 12, evenly on a log axis. Edges from layers before `start_layer` are never cut and do not count.
    It runs one forward row per example and distinct set of parents' values, and says how many before it starts.
    Raises `InputError` for a circuit of another model, suite or task, for unknown words, and if it would take more than
    `most_rows` rows times examples.
    """
    judge = edge_judge(spliced, task, circuit, ablation, start_layer, seed, batch_size, max_rows, most_rows, check)
    check_number("draws", draws, Range(0, 1000))
    edges = judge.in_scope(edges_in_order(circuit, order))
    chosen = _default_sizes(len(edges)) if sizes is None else _checked_sizes(sizes, len(edges))
    orders = [edges, *(shuffled_edges(edges, seed + draw) for draw in range(draws))]
    circuits = [own[:size] for own in orders for size in chosen]
    removed = [edges[:size] for size in chosen] if necessity else []
    measured = judge.measure(circuits, removed, progress)
    scores, nodes = measured.f(measured.circuits), judge.nodes(edges, chosen, measured, progress)
    by_order = np.array(scores).reshape(len(orders), len(chosen))
    random, spread = mean_and_spread(by_order[1:])
    own = by_order[0].tolist()
    return EdgeCurve(
        sizes=chosen,
        faithfulness=tuple(own),
        intervals=measured.intervals(measured.circuits[: len(chosen)]),
        nodes=tuple(nodes),
        n_nodes=tuple(nodes_in_order(edges)[1][size - 1] for size in chosen),
        random=tuple(random),
        random_sd=tuple(spread),
        draws=draws,
        necessity=tuple(measured.f(measured.without)),
        area=area(chosen, own),
        area_from_one=area_from_one(chosen, own),
        area_nodes=area(chosen, nodes),
        area_random=area(chosen, random),
        F_model=measured.reference.model,
        F_empty=measured.reference.empty,
        invalid=measured.invalid,
        n_edges=len(edges),
        n_examples=len(task),
        n_rows=measured.n_rows,
        task=task.name,
        metric=str(task.metric),
        ablation=judge.ablation_name,
        ablation_places=judge.ablated.ablation.places,
        order=order if isinstance(order, str) else "given",
        start_layer=start_layer,
        seed=seed,
    )


class EdgeJudge(NamedTuple):
    """A task and a model in which edges are judged; `edge_judge` makes one."""

    ablated: AblatedModel
    task: Task
    ablation_name: str
    most_rows: int

    def in_scope(self, edges: Sequence[Edge]) -> list[Edge]:
        """The edges that are cut at all: those from sites that are ablated."""
        kept = [edge for edge in edges if edge[0].site in self.ablated.spliced.dictionaries]
        if not kept:
            raise InputError(
                "the circuit has no edges to judge; trace it with keep_edges, such as keep_edges='top=1000'"
            )
        return kept

    def measure(
        self, circuits: Sequence[Sequence[Edge]], removed: Sequence[Sequence[Edge]], progress: Progress
    ) -> Measured:
        """F of edge circuits, and of the model without some edges; raises `InputError` for too many rows."""
        plan = planned([*circuits, ()])
        n_rows = len(plan.rows) + count_without(removed)
        if n_rows * len(self.task) > self.most_rows:
            raise InputError(
                f"the edges need {n_rows:,} forward rows for each of {len(self.task)} examples, more than most_rows="
                f"{self.most_rows:,} in all; give fewer sizes, draws or examples, or a larger most_rows (--most-rows)"
            )
        *inside, empty = run_plan(self.ablated, self.task, plan, "edge circuits", progress)
        without = run_without(self.ablated, self.task, removed, progress) if removed else []
        model = metric_model(self.ablated.spliced, self.task, self.ablated.batch_size)
        reference = Reference(float(model.mean()), float(empty.mean()))
        return Measured(inside, list(without), model, empty, reference, invalid_reason(model, empty), n_rows)

    def nodes(self, edges: Sequence[Edge], sizes: Sequence[int], measured: Measured, progress: Progress) -> list[float]:
        """f of the nodes of the first edges, by number of edges, with every connection among them."""
        nodes, counts = nodes_in_order(edges)
        ranks = ranks_of(self.ablated.spliced, self.task.places, nodes)
        subgraphs = [Subgraph(ranks, counts[size - 1] if size else 0) for size in sizes]
        return measured.f(self.ablated.metric(self.task, subgraphs, progress))


class Measured(NamedTuple):
    """F per example [example] of edge circuits, of the model without edges, and of both ends of the scale."""

    circuits: list[Tensor]
    without: list[Tensor]
    model: Tensor
    empty: Tensor
    reference: Reference
    invalid: str | None
    n_rows: int

    def f(self, metrics: Sequence[Tensor] | Tensor) -> list[float]:
        """The share of F(model) - F(empty) of each [circuit, example]."""
        return [faithfulness(float(metric.mean()), self.reference) for metric in metrics]

    def intervals(self, metrics: Sequence[Tensor]) -> tuple[tuple[float, float] | None, ...]:
        """The 95 % intervals of `f`, from five interleaved parts of the examples; None if they would be too small."""
        if len(self.model) < SMALLEST_TASK:
            return (None,) * len(metrics)

        def of(metric: Tensor) -> list[float]:
            parts = ([t[fold::FOLDS].mean().item() for t in (metric, self.model, self.empty)] for fold in range(FOLDS))
            return [faithfulness(own, Reference(model, empty)) for own, model, empty in parts]

        return tuple(interval(f, of(metric)) for f, metric in zip(self.f(metrics), metrics, strict=True))


def edge_judge(
    spliced: SplicedModel,
    task: Task,
    circuit: Circuit,
    ablation: str | Ablation | None = None,
    start_layer: int = 0,
    seed: int = 0,
    batch_size: int | None = None,
    max_rows: int = 512,
    most_rows: int = MOST_EDGE_ROWS,
    check: bool = True,
) -> EdgeJudge:
    """Check what was given and prepare the ablation; raises `InputError` as `edge_curve` does."""
    check_task(spliced, task, check)
    check_circuit(spliced, circuit, check=check, whole=True)
    check_number("seed", seed, SEEDS)
    check_number("most_rows", most_rows, Range(1, MOST * 1000))
    if circuit.places != task.places:
        raise InputError(f"the circuit's places are {circuit.places}, those of {task.name} are {task.places}")
    task.check_places()
    scope = scope_of(spliced, start_layer)
    chosen = ("paired" if task.paired else "mean") if ablation is None else ablation
    require_behaviour(spliced, task)
    batch_size = fitting_batch(spliced, task, batch_size, most=32, gradients=False)
    prepared = prepared_ablation(chosen, scope, task, batch_size, seed)
    _check_fixed(scope, prepared)
    ablated = AblatedModel(scope, prepared, "as-circuit", start_layer, batch_size, max_rows)
    return EdgeJudge(ablated, task, name_of(chosen), most_rows)


def _check_fixed(scope: SplicedModel, ablation: Ablation) -> None:
    """Refuse values that change with what arrives: an edge that carries them would carry something of other edges."""
    if not isinstance(ablation, Zero):
        return
    for site, dictionary in scope.dictionaries.items():
        if dictionary.statistics(torch.zeros(1, dictionary.read_width, device=scope.device)) is not None:
            raise InputError(
                f"ablation='zero' has no fixed value at {site}, where the dictionary normalises its input; "
                "edges need one: use ablation='mean' or 'paired'"
            )


def _default_sizes(n_edges: int) -> tuple[int, ...]:
    return tuple(sorted({round(size) for size in np.geomspace(1, n_edges, _POINTS)}))


def _checked_sizes(sizes: Sequence[int], n_edges: int) -> tuple[int, ...]:
    for size in sizes:
        check_number("size", size, Range(1, n_edges))
    if not len(sizes):
        raise InputError("sizes is empty; give numbers of edges, or leave it out")
    return tuple(sorted(set(sizes)))
