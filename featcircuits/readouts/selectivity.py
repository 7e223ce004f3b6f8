"""fc.selectivity: what circuits of several tasks do to each other's task, beside random circuits matched per site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from featcircuits.circuit.circuit import Circuit
from featcircuits.effects.nodes import node_effects
from featcircuits.errors import InputError, shortened
from featcircuits.evaluation.ablated import AblatedModel, Subgraph, metric_model, ranks_of
from featcircuits.evaluation.ablations import prepared_ablation
from featcircuits.files.plain import plain
from featcircuits.inputs.ranges import SEEDS, Range, check_number
from featcircuits.model.nodes import Node
from featcircuits.model.sites import Site
from featcircuits.progress import Progress, silent
from featcircuits.provenance.belonging import check_circuit, check_nodes, check_task
from featcircuits.readouts.answers import Accuracy, check_judged
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.states import fitting_batch
from featcircuits.tasks.task import Task

DRAWS = 100
MOST_DRAWS = 10_000
_AT_ONCE = 16
"""Random circuits whose ranks are in memory at once."""


@dataclass(frozen=True)
class Selectivity:
    """Circuits by tasks; matrices are [circuit a][task b].

    `loss`: M[a][b] = (F_b(model) - F_b(a ablated)) / F_b(model). `selectivity`: (M[a][a] - M[a][b]) / M[a][a], NaN
    where M[a][a] is not above 0. `p`: the share of random circuits (and this one) whose M[a][a] - M[a][b] is at least
    as large. `accuracy`: the share of right answers with a ablated; `accuracy_before`, `F_before`: without.
    `sizes`: how many nodes each circuit has.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    F_before: tuple[float, ...]
    accuracy_before: tuple[float, ...]
    loss: tuple[tuple[float, ...], ...]
    accuracy: tuple[tuple[float, ...], ...]
    selectivity: tuple[tuple[float, ...], ...]
    p: tuple[tuple[float, ...], ...]
    random_loss: tuple[tuple[float, ...], ...]
    """The mean M[a][b] of the random circuits that are matched to a."""
    draws: int

    def to_json(self) -> dict[str, Any]:
        """The matrices as plain JSON values."""
        return plain(asdict(self))


def selectivity(
    spliced: SplicedModel,
    circuits: Mapping[str, Circuit],
    tasks: Mapping[str, Task],
    *,
    ablation: str = "mean",
    draws: int = DRAWS,
    seed: int = 0,
    batch_size: int | None = None,
    check: bool = True,
    progress: Progress = silent,
) -> Selectivity:
    """Ablate each circuit's nodes on each task: does a circuit break its own task and leave the others?

    `circuits`, `tasks`: name -> circuit and its task, by the same names. M[a, b] is the relative loss of the metric
    on task b with the nodes of circuit a at their ablation value. The permutation test replaces a's nodes, at each
    site, by as many others drawn from all nodes that move in any of the tasks, `draws` times. Raises `InputError` for
    other names, fewer than two, a circuit with a place that some task lacks, and a task whose F is not above 0, where
    a relative loss means nothing.
    """
    names = _names(circuits, tasks)
    check_number("draws", draws, Range(1, MOST_DRAWS))
    check_number("seed", seed, SEEDS)
    for name in names:
        check_task(spliced, tasks[name], check)
        check_judged(tasks[name])
        check_circuit(spliced, circuits[name], name, check=check, whole=True)
        for other in names:
            _check_places(spliced, name, circuits[name], tasks[other])
    pool = _pool(spliced, [tasks[name] for name in names], batch_size)
    drawn = {name: _drawn(circuits[name], pool, draws, seed) for name in names}
    columns = [
        _column(spliced, tasks[name], names, circuits, drawn, ablation, seed, batch_size, progress) for name in names
    ]
    return _summary(names, circuits, columns, draws)


def _names(circuits: Mapping[str, Circuit], tasks: Mapping[str, Task]) -> tuple[str, ...]:
    if not isinstance(circuits, Mapping) or not isinstance(tasks, Mapping) or set(circuits) != set(tasks):
        raise InputError("circuits and tasks are mappings by the same names, such as {'recall': ..., 'reasoning': ...}")
    if len(circuits) < 2:
        raise InputError("one circuit cannot be selective; give at least two circuits and their tasks")
    return tuple(circuits)


def _check_places(spliced: SplicedModel, name: str, circuit: Circuit, task: Task) -> None:
    check_nodes(spliced, list(circuit.nodes))
    if strange := [node for node in circuit.nodes if node.place not in task.places]:
        raise InputError(
            f"{name}: node {strange[0]} is at a place that task {task.name} does not have "
            f"({shortened(list(task.places))}); trace all circuits with aggregate='sum', or roles that all tasks have"
        )


def _pool(spliced: SplicedModel, tasks: Sequence[Task], batch_size: int | None) -> dict[Site, list[Node]]:
    """All nodes by site that move in any of the tasks."""
    found: dict[Node, None] = {}
    for task in tasks:
        baseline = "paired" if task.paired else "zero"
        effects = node_effects(
            spliced, task, "atp", baseline=baseline, keep_examples=False, batch_size=batch_size, check=False
        )
        found.update(dict.fromkeys(effects.moving()))
    by_site: dict[Site, list[Node]] = {}
    for node in found:
        by_site.setdefault(node.site, []).append(node)
    return by_site


def _drawn(circuit: Circuit, pool: Mapping[Site, Sequence[Node]], draws: int, seed: int) -> list[list[Node]]:
    """Random circuits with as many nodes at each site."""
    generator = np.random.default_rng(seed)
    counts: dict[Site, int] = {}
    for node in circuit.nodes:
        counts[node.site] = counts.get(node.site, 0) + 1
    return [
        [
            pool[site][number]
            for site, count in counts.items()
            for number in generator.permutation(len(pool.get(site, ())))[:count]
        ]
        for _ in range(draws)
    ]


@dataclass(frozen=True)
class _Column:
    """One task: F and accuracy of the model, with each circuit ablated, and F with the random ones ablated."""

    F: float
    right: float
    F_without: np.ndarray
    right_without: np.ndarray
    F_random: np.ndarray
    """[circuit, draw]"""


def _column(
    spliced: SplicedModel,
    task: Task,
    names: Sequence[str],
    circuits: Mapping[str, Circuit],
    drawn: Mapping[str, Sequence[Sequence[Node]]],
    ablation: str,
    seed: int,
    batch_size: int | None,
    progress: Progress,
) -> _Column:
    size = fitting_batch(spliced, task, batch_size, most=32, gradients=False)
    ablated = AblatedModel(spliced, prepared_ablation(ablation, spliced, task, size, seed), batch_size=size)

    def without(nodes: Sequence[Node]) -> Subgraph:
        return Subgraph(ranks_of(spliced, task.places, nodes), len(nodes), complement=True)

    own = [without([*circuits[name].nodes]) for name in names]
    judged = task.with_options(metric=Accuracy())
    F = float(metric_model(spliced, task, size).mean())
    if not F > 0:
        raise InputError(
            f"{task.name}: F of the unedited model is {F:.3g}, and a relative loss needs it above 0; use the metric "
            "'logit_difference' or 'probability' on a task that the model answers right"
        )
    random = np.stack([
        np.concatenate([
            ablated.metric(task, [without(nodes) for nodes in drawn[name][begin : begin + _AT_ONCE]]).mean(-1).numpy()
            for begin in range(0, len(drawn[name]), _AT_ONCE)
        ])
        for name in progress(list(names), f"random circuits on {task.name}", len(names))
    ])  # fmt: skip
    return _Column(
        F,
        float(metric_model(spliced, judged, size).mean()),
        ablated.metric(task, own).mean(-1).numpy(),
        ablated.metric(judged, own).mean(-1).numpy(),
        random,
    )


def _summary(
    names: tuple[str, ...], circuits: Mapping[str, Circuit], columns: Sequence[_Column], draws: int
) -> Selectivity:
    F = np.array([column.F for column in columns])
    loss = 1 - np.stack([column.F_without for column in columns], 1) / F
    random = 1 - np.stack([column.F_random for column in columns], 1) / F[:, None]  # [circuit, task, draw]
    own = np.diag(loss)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        chosen = np.where(own > 0, (own - loss) / own, np.nan)
    turns = np.arange(len(names))
    gaps = random[turns, turns][:, None] - random
    p = (1 + (gaps >= (own - loss)[..., None]).sum(-1)) / (1 + draws)
    p[turns, turns] = np.nan
    return Selectivity(
        names=names,
        sizes=tuple(circuits[name].n_nodes for name in names),
        F_before=tuple(F.tolist()),
        accuracy_before=tuple(column.right for column in columns),
        loss=_rows(loss),
        accuracy=_rows(np.stack([column.right_without for column in columns], 1)),
        selectivity=_rows(chosen),
        p=_rows(p),
        random_loss=_rows(random.mean(-1)),
        draws=draws,
    )


def _rows(table: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, table.tolist()))
