"""Do nodes act together or each alone? A set's joint effect beside the sum of the effects of its nodes.

With A the ablation and shares of F(model) - F(empty):

    lost      F(model) - F(model, A(set))    beside    sum over nodes v of F(model) - F(model, A(v))
    restored  F(only set) - F(empty)         beside    sum over nodes v of F(only v) - F(empty)

Effects of single nodes do not add: where nodes replace each other, more is lost together than the sum; where each of
several is needed, less. A circuit whose nodes are strong one by one may still restore nothing, and the reverse.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from featcircuits.circuit.circuit import Circuit
from featcircuits.errors import InputError
from featcircuits.evaluation.ablated import Subgraph, check_error_nodes, ranks_of
from featcircuits.evaluation.table import ABLATIONS
from featcircuits.files.plain import plain
from featcircuits.inputs.ranges import SEEDS, check_number
from featcircuits.model.nodes import Node
from featcircuits.provenance.belonging import check_circuit, check_task
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.tasks.behaviour import require_behaviour
from featcircuits.tasks.task import Task
from featcircuits.validation.bench import Bench

_NORMAL_95 = 1.96


@dataclass(frozen=True)
class Joint:
    """A set of nodes: what ablating all of it loses, and what it alone restores, beside sums over single nodes.

    Shares of F(model) - F(empty). Intervals are 95 % ones of together minus sum, over examples; None for one example.
    """

    name: str
    n_nodes: int
    lost: float
    lost_alone: float
    lost_interval: tuple[float, float] | None
    restored: float
    restored_alone: float
    restored_interval: tuple[float, float] | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return plain(asdict(self))


def joint_effects(
    spliced: SplicedModel,
    circuit: Circuit,
    task: Task,
    *,
    groups: Mapping[str, Collection[Node | str]] | None = None,
    ablation: str = "paired",
    error_nodes: str = "as-circuit",
    start_layer: int = 0,
    seed: int = 0,
    batch_size: int | None = None,
    check: bool = True,
) -> list[Joint]:
    """The joint effect of a circuit and of each of its groups, beside the sum over single nodes.

    `groups`: in place of the circuit's own. Other arguments are those of `fc.evaluate`. Nodes at sites that are not
    ablated do not count, and groups of these alone are left out. Two ablated runs of the task for each node.
    Raises `InputError` as `fc.evaluate` does, and if F(model) is not clearly above F(empty).
    """
    check_task(spliced, task, check)
    check_circuit(spliced, circuit, check=check, whole=True)
    check_error_nodes(error_nodes)
    check_number("seed", seed, SEEDS)
    ABLATIONS.named(ablation).check(task)
    require_behaviour(spliced, task)
    if groups is not None:
        circuit = circuit.with_groups(groups)
    bench = Bench.of(spliced, circuit, task, None, ablation, error_nodes, start_layer, seed, batch_size)
    if bench.invalid is not None:
        raise InputError(f"{task.name}: {bench.invalid}, so shares of the difference would mean nothing")
    return joint_on(bench, circuit)


def joint_on(bench: Bench, circuit: Circuit) -> list[Joint]:
    """The joint effects on a bench: of the circuit, then of its groups."""
    order, spliced = bench.nodes, bench.ablated.spliced
    ranks = ranks_of(spliced, bench.task.places, order)
    kept = [Subgraph(ranks, number + 1, first=number) for number in range(len(order))]
    without = [Subgraph(ranks, number + 1, complement=True, first=number) for number in range(len(order))]
    own = {"circuit": order} | {
        name: tuple(node for node in order if node in members)
        for name, members in ((name, set(members)) for name, members in circuit.groups.items())
    }
    sets = {name: nodes for name, nodes in own.items() if nodes}
    together = [bench.keeping(nodes, complement=complement) for nodes in sets.values() for complement in (True, False)]
    F = bench.F([*without, *kept, *together])
    lost = bench.model - F[: len(order)]
    restored = F[len(order) : 2 * len(order)] - bench.ends[2]
    number = {node: at for at, node in enumerate(order)}
    found = []
    for turn, (name, nodes) in enumerate(sets.items()):
        ablated, only = F[2 * len(order) + 2 * turn :][:2]
        at = [number[node] for node in nodes]
        found.append(
            Joint(
                name, len(nodes),
                *_beside(bench.model - ablated, lost[at], bench.gap),
                *_beside(only - bench.ends[2], restored[at], bench.gap),
            )
        )  # fmt: skip
    return found


def _beside(
    together: np.ndarray, alone: Sequence[np.ndarray] | np.ndarray, gap: float
) -> tuple[float, float, tuple[float, float] | None]:
    """(together, sum of each alone, interval of the difference), as shares, from [example] and [node, example]."""
    summed = np.sum(alone, axis=0)
    more = (together - summed) / gap
    half = _NORMAL_95 * float(np.std(more, ddof=1)) / math.sqrt(len(more)) if len(more) > 1 else math.nan
    between = None if math.isnan(half) else (float(more.mean()) - half, float(more.mean()) + half)
    return float(together.mean()) / gap, float(summed.mean()) / gap, between
