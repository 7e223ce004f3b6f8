"""The plan of a trace: every scientific setting as a value, read once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from featcircuits.circuit.pruning import ByInfluence, PruningRule, parse_pruning
from featcircuits.effects.edges import check_has_edges
from featcircuits.effects.nodes import check_error_effects
from featcircuits.errors import InputError
from featcircuits.estimators import default_estimator, parse_estimator
from featcircuits.estimators.estimator import Estimator
from featcircuits.inputs.defaults import KEEP_EDGES, KEEP_NODES
from featcircuits.inputs.ranges import SEEDS, check_number
from featcircuits.selection import DEFAULT_SELECTION, parse_selection
from featcircuits.selection.rule import SelectionRule
from featcircuits.states.baselines import Baseline, check_baseline, check_known
from featcircuits.tasks.corruption import Noise
from featcircuits.tasks.task import Task

SAME: Literal["same"] = "same"
"""As the estimator of edges, this means the estimator of the nodes."""


@dataclass(frozen=True)
class Plan:
    """The plan of a trace; `planned` makes one from texts.

    `nodes`: None for the task's default. `edges`: None for a circuit of nodes alone. `batch_size`: None for as many
    as fit.
    """

    nodes: Estimator | None
    edges: Estimator | Literal["same"] | None
    keep_nodes: PruningRule
    keep_edges: PruningRule
    select: SelectionRule
    start_layer: int
    baseline: Baseline
    error_effects: str
    batch_size: int | None
    seed: int

    def __post_init__(self) -> None:
        if self.edges is None and isinstance(self.keep_nodes, ByInfluence):
            raise InputError(
                f"keep_nodes {self.keep_nodes} needs edges, along which influence flows, but edges is none; ask for "
                "edges, or keep nodes by top, threshold or cumulative"
            )
        for estimator in (self.edges, self.nodes if self.edges == SAME else None):
            if isinstance(estimator, Estimator):
                check_has_edges(estimator)

    def for_task(self, task: Task) -> Plan:
        """The plan with the task's default estimators; raises `InputError` if the task lacks something needed."""
        nodes = default_estimator(task, self.baseline) if self.nodes is None else self.nodes
        edges = nodes if self.edges == SAME else self.edges
        check_baseline(task, self.baseline)
        for part in (nodes, edges, self.select):
            if isinstance(part, (Estimator, SelectionRule)):
                part.check(task, self.baseline)
        task.check_places()
        return replace(self, nodes=nodes, edges=edges)

    @property
    def patched_in(self) -> Baseline:
        """The baseline; noise is drawn with the plan's seed unless it has settings of its own."""
        return Noise(seed=self.seed) if self.baseline == "noise" else self.baseline

    @property
    def record(self) -> dict[str, Any]:
        """The plan as plain data for a manifest."""
        texts = ("baseline", "error_effects", "select", "keep_nodes", "keep_edges")
        return {
            "nodes": None if self.nodes is None else str(self.nodes),
            "edges": None if self.edges is None else str(self.edges),
            **{name: str(getattr(self, name)) for name in texts},
            **{name: getattr(self, name) for name in ("start_layer", "batch_size", "seed")},
        }


def planned(
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
) -> Plan:
    """The plan from the arguments of `fc.trace`, without model or task; raises `InputError` for invalid ones."""
    if edges is None and keep_edges is not None:
        raise InputError(
            "a rule for edges was given (keep_edges), but the circuit is of nodes alone (edges is none); leave the "
            "rule out, or ask for edges"
        )
    check_known(baseline)
    check_error_effects(error_effects)
    check_number("seed", seed, SEEDS)
    return Plan(
        nodes=None if nodes is None else parse_estimator(nodes),
        edges=SAME if edges == SAME else None if edges is None else parse_estimator(edges),
        keep_nodes=parse_pruning(KEEP_NODES if keep_nodes is None else keep_nodes),
        keep_edges=parse_pruning(KEEP_EDGES if keep_edges is None else keep_edges),
        select=parse_selection(select),
        start_layer=start_layer,
        baseline=baseline,
        error_effects=error_effects,
        batch_size=batch_size,
        seed=seed,
    )
