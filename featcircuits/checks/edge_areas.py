"""fc.mib_areas: CPR and CMD of a circuit's ranking, over nodes and over edges, as in MIB (Mueller et al. 2025).

Of all ranked edges (or nodes) the first int(p n) are kept, for the fractions p below, and

    CPR = area under f(p),  CMD = area under |1 - f(p)|,

with straight lines between the fractions and p itself on the axis, from the first fraction to the last, as published.
Both rankings are taken: by |effect|, and signed, from the effects that carry most of the behaviour down to those that
work most against it (an effect is positive if the edge or node carries the behaviour).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featcircuits.checks.edge_curve import EdgeJudge, Measured, edge_judge
from featcircuits.checks.edge_plan import ORDERS, Edge, edges_in_order, strongest_first
from featcircuits.circuit.circuit import Circuit
from featcircuits.errors import InputError
from featcircuits.evaluation.ablated import Subgraph, ranks_of
from featcircuits.evaluation.ablations import Ablation
from featcircuits.files.plain import plain
from featcircuits.files.writing import make_folder, write_json
from featcircuits.inputs.defaults import MOST_EDGE_ROWS
from featcircuits.inputs.names import check_name
from featcircuits.model.nodes import Node
from featcircuits.progress import Progress, silent
from featcircuits.provenance.belonging import check_circuit
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.tasks.task import Task

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_INTERVENTIONS = {"paired": "patching"}
"""What MIB calls our ablations, where the words differ."""


@dataclass(frozen=True)
class Area:
    """CPR and CMD of one ranking. `level`: "node" or "edge"; `order`: "absolute" or "signed".

    `sizes`: how many nodes or edges each fraction keeps; `n_edges`: how many of the circuit's edges are kept then (for
    nodes, those between kept nodes and to the metric). `average`: the mean f over the fractions.
    """

    level: str
    order: str
    fractions: tuple[float, ...]
    sizes: tuple[int, ...]
    n_edges: tuple[int, ...]
    faithfulness: tuple[float, ...]
    cpr: float
    cmd: float
    average: float


@dataclass(frozen=True)
class MibAreas:
    """CPR and CMD over nodes and edges in both orders; `of` says how many nodes and edges fraction 1 is."""

    areas: tuple[Area, ...]
    of: dict[str, int]
    F_model: float
    F_empty: float
    invalid: str | None
    task: str
    metric: str
    ablation: str
    n_examples: int

    def to_json(self) -> dict[str, Any]:
        """All areas as plain JSON values; without any if the shares mean nothing (`invalid`)."""
        return plain({**asdict(self), **({"areas": []} if self.invalid else {})})

    def write_mib(self, folder: str | Path, *, method: str, model: str, split: str = "test") -> list[Path]:
        """Write one JSON file per level and order with the keys and the name that MIB's own results have.

        `<folder>/<method>_<ablation>_<level>/<task>_<model>_<split>_abs-True.json`; abs-False is the signed order.
        MIB's scripts read the same dictionaries as pickles, which this package does not write. Returns the paths;
        raises `InputError` if the shares mean nothing, and for names that cannot be part of a file's name.
        """
        if self.invalid:
            raise InputError(f"there are no areas to write: {self.invalid}")
        for what, name in (("method", method), ("model", model), ("split", split)):
            _check_part(what, name)
        paths = []
        task = self.task.replace("_", "-")  # MIB's scripts split the name at underscores
        for area in self.areas:
            ablation = _INTERVENTIONS.get(self.ablation, self.ablation)
            own = Path(folder) / f"{method}_{ablation}_{area.level}"
            make_folder(own)
            paths.append(own / f"{task}_{model}_{split}_abs-{area.order == 'absolute'}.json")
            write_json(paths[-1], mib_record(area))
        return paths


def mib_record(area: Area) -> dict[str, Any]:
    """One ranking as MIB's results have it."""
    return {
        "weighted_edge_counts": list(area.n_edges),
        "area_under": area.cpr,
        "area_from_1": area.cmd,
        "average": area.average,
        "faithfulnesses": list(area.faithfulness),
    }


def mib_areas(
    spliced: SplicedModel,
    task: Task,
    circuit: Circuit,
    *,
    nodes: Circuit | None = None,
    ablation: str | Ablation | None = None,
    start_layer: int = 0,
    seed: int = 0,
    batch_size: int | None = None,
    max_rows: int = 512,
    most_rows: int = MOST_EDGE_ROWS,
    check: bool = True,
    progress: Progress = silent,
) -> MibAreas:
    """CPR and CMD over the circuit's edges, and over nodes, by |effect| and signed.

    `nodes`: the circuit whose nodes are ranked, such as a trace's `ranking` with all nodes; default: `circuit`.
    Fractions are of the edges and nodes given here, so areas can be compared only over the same ones. At fraction 1 f
    is that of all of them, which need not be 1. Otherwise as `fc.edge_curve`; it raises `InputError` for the same.
    """
    judge = edge_judge(spliced, task, circuit, ablation, start_layer, seed, batch_size, max_rows, most_rows, check)
    ranked = circuit if nodes is None else nodes
    check_circuit(spliced, ranked, "nodes", check=check, whole=True)
    edges = {order: judge.in_scope(edges_in_order(circuit, order)) for order in ORDERS}
    n_edges, scope = len(edges["absolute"]), judge.ablated.spliced
    sizes = [int(fraction * n_edges) for fraction in FRACTIONS]
    measured = judge.measure([edges[order][:size] for order in ORDERS for size in sizes], [], progress)
    scores = np.array(measured.f(measured.circuits)).reshape(len(ORDERS), -1).tolist()
    areas = [_area("edge", order, sizes, sizes, own) for order, own in zip(ORDERS, scores, strict=True)]
    own_nodes = [node for node in ranked.nodes if node.site in scope.dictionaries]
    for order in ORDERS:
        areas.append(_over_nodes(judge, measured, ranked, own_nodes, edges["absolute"], order, progress))
    return MibAreas(
        areas=tuple(areas),
        of={"edge": n_edges, "node": len(own_nodes)},
        F_model=measured.reference.model,
        F_empty=measured.reference.empty,
        invalid=measured.invalid,
        task=task.name,
        metric=str(task.metric),
        ablation=judge.ablation_name,
        n_examples=len(task),
    )


def _over_nodes(
    judge: EdgeJudge,
    measured: Measured,
    ranked: Circuit,
    nodes: Sequence[Node],
    edges: Sequence[Edge],
    order: str,
    progress: Progress,
) -> Area:
    first = strongest_first({node: ranked.nodes[node].effect for node in nodes}, order)
    sizes = [int(fraction * len(first)) for fraction in FRACTIONS]
    ranks = ranks_of(judge.ablated.spliced, judge.task.places, first)
    scores = measured.f(judge.ablated.metric(judge.task, [Subgraph(ranks, size) for size in sizes], progress))
    return _area("node", order, sizes, _among(first, sizes, edges), scores)


def _among(nodes: Sequence[Node], sizes: Sequence[int], edges: Sequence[Edge]) -> list[int]:
    """How many edges are between the first nodes, and from them to the metric, at each size."""
    turn = {node: number for number, node in enumerate(nodes)}
    from_size = np.array(
        [max(turn.get(end, len(nodes)) if isinstance(end, Node) else -1 for end in edge) for edge in edges]
    )
    return [int((from_size < size).sum()) for size in sizes]


def _area(level: str, order: str, sizes: Sequence[int], n_edges: Sequence[int], scores: Sequence[float]) -> Area:
    f, x = np.array(scores), np.array(FRACTIONS)
    return Area(
        level=level,
        order=order,
        fractions=FRACTIONS,
        sizes=tuple(sizes),
        n_edges=tuple(n_edges),
        faithfulness=tuple(f.tolist()),
        cpr=float(np.trapezoid(f, x)),
        cmd=float(np.trapezoid(np.abs(1 - f), x)),
        average=float(f.mean()),
    )


def _check_part(what: str, name: str) -> None:
    check_name(name, what)
    if any(letter in name for letter in "/\\\0_"):
        raise InputError(f"{what} is {name!r}; it becomes a part of a file's name, so it cannot hold '/', '\\' or '_'")
