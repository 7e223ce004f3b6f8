"""The data of a selection rule, and the ablated model that searching rules run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from featcircuits.circuit.circuit import NodeScore
from featcircuits.effects.results import NodeEffects
from featcircuits.errors import InputError
from featcircuits.evaluation import ABLATIONS
from featcircuits.evaluation.ablated import AblatedModel, check_error_nodes
from featcircuits.evaluation.ablations import prepared_ablation
from featcircuits.evaluation.scope import scope_of, varying
from featcircuits.model.nodes import Node
from featcircuits.progress import Progress
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.baselines import Baseline
from featcircuits.tasks.task import Task


@dataclass(frozen=True, eq=False)
class Evidence:
    """A model, a task, and the effects that an estimator gives the nodes.

    `scores`: every node with an effect, in forward order; a rule orders these.
    """

    spliced: SplicedModel
    task: Task
    effects: NodeEffects
    scores: Mapping[Node, NodeScore]
    seed: int
    progress: Progress
    start_layer: int = 0
    """Layers before it are never ablated, and none of their nodes is among the scores."""

    def by_effect(self) -> list[Node]:
        """The nodes with the strongest |effect| first, equal ones in forward order."""
        return strongest({node: score.effect for node, score in self.scores.items()})

    def ablated(self, ablation: str, error_nodes: str) -> AblatedModel:
        """The model with everything outside a circuit ablated, on the examples of the task."""
        name = _ablation_of(ablation, self.effects.baseline)
        scope, batch_size = scope_of(self.spliced, self.start_layer), self.effects.batch_size
        prepared = prepared_ablation(name, scope, self.task, batch_size, self.seed)
        return AblatedModel(scope, prepared, error_nodes, self.start_layer, batch_size)

    def searched(self, error_nodes: str) -> tuple[list[Node], list[Node]]:
        """(the nodes that a search decides on, error nodes that are all kept or ablated), each by |effect|."""
        ranked = self.by_effect()
        open_nodes = varying(ranked, self.spliced, error_nodes)
        decided = set(open_nodes)
        return open_nodes, [node for node in ranked if node not in decided]


def strongest(values: Mapping[Node, float]) -> list[Node]:
    """The nodes with the largest |value| first; equal ones keep their order."""
    return sorted(values, key=lambda node: -abs(values[node]))


def check_search(ablation: str, error_nodes: str, task: Task, baseline: Baseline) -> None:
    """Raise `InputError` for invalid settings of a searching rule, and for ablations unsuitable for the task."""
    check_error_nodes(error_nodes)
    ABLATIONS.named(_ablation_of(ablation, baseline)).check(task)


def _ablation_of(ablation: str, baseline: Baseline) -> str:
    """ "same": nodes outside the circuit become what patching puts in."""
    if ablation != "same":
        if ablation not in ABLATIONS:
            raise InputError(f"unknown ablation {ablation!r}; known: same, {', '.join(ABLATIONS)}")
        return ablation
    if baseline not in ABLATIONS:
        raise InputError(
            f"baseline {baseline} has no ablation of the same name; give the rule one, such as ablation=mean"
        )
    return str(baseline)
