"""Selection rules by name: the order in which a circuit takes its nodes. A new one is a file and a row here.

A rule is a frozen dataclass whose fields are its options. Its order holds every node with an effect, the
one to keep longest first; sizes of a circuit and of the evaluation's curve are beginnings of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from featcircuits.circuit.circuit import NodeScore
from featcircuits.effects.nodes import NodeEffects, check_effects
from featcircuits.evaluation.scope import scope_of, varying
from featcircuits.inputs.ranges import SEEDS, check_number
from featcircuits.inputs.variants import built, parse_named
from featcircuits.model.nodes import Node
from featcircuits.progress import Progress, silent
from featcircuits.provenance.belonging import check_task
from featcircuits.selection.effect import ByEffect
from featcircuits.selection.evidence import Evidence, strongest
from featcircuits.selection.greedy import Greedy
from featcircuits.selection.helpful import HelpfulFirst
from featcircuits.selection.iterated import IteratedPruning
from featcircuits.selection.mask import LearnedMask
from featcircuits.selection.ranks import MeanRank
from featcircuits.selection.ratio import Ratio
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.baselines import Baseline
from featcircuits.tasks.task import Task


class Selection(Protocol):
    def check(self, task: Task, baseline: Baseline) -> None:
        """Raise `InputError` for what the rule needs and the task does not have."""
        ...

    def order(self, evidence: Evidence) -> list[Node]:
        """The nodes of `evidence.scores`, each once."""
        ...


SELECTIONS: Mapping[str, Callable[..., Selection]] = {
    "effect": ByEffect,
    "helpful": HelpfulFirst,
    "ratio": Ratio,
    "ranks": MeanRank,
    "iterated": IteratedPruning,
    "mask": LearnedMask,
    "greedy": Greedy,
}
DEFAULT_SELECTION = "effect"


def selection_named(text: str) -> Selection:
    """A rule with its options, written `ratio` or `ratio:positive=0.8`; anything unknown is an `InputError`."""
    name, options = parse_named(text, SELECTIONS, "selection rule")
    return built(name, SELECTIONS, "selection rule", options)


def select(
    spliced: SplicedModel,
    task: Task,
    effects: NodeEffects,
    rule: str = DEFAULT_SELECTION,
    *,
    start_layer: int = 0,
    seed: int = 0,
    check: bool = True,
    progress: Progress = silent,
) -> list[Node]:
    """Every node with an effect, in the order in which a circuit takes them.

    `effects`: any estimator's on the task. `rule`: a name of `SELECTIONS`, with options after colons.
    `start_layer`: as `evaluate` will have it. Layers before it are given, so that their nodes (and the embedding's)
    come last, by |effect|, and searching rules do not ablate them.
    Raises `InputError` for unknown rules and options, where a rule needs what is not there, and, unless `check` is
    False, for effects of another model.
    """
    check_task(spliced, task, check)
    check_effects(spliced, task, effects, check)
    check_number("seed", seed, SEEDS)
    return select_with(
        selection_named(rule), spliced, task, effects, start_layer=start_layer, seed=seed, progress=progress
    )


def select_with(
    rule: Selection,
    spliced: SplicedModel,
    task: Task,
    effects: NodeEffects,
    *,
    start_layer: int = 0,
    seed: int = 0,
    progress: Progress = silent,
) -> list[Node]:
    """`select`, with a rule that is built already."""
    rule.check(task, effects.baseline)
    scores = {node: NodeScore(effect, error) for node, effect, error in effects.nodes()}
    decided = set(varying(scores, scope_of(spliced, start_layer), "nodes"))
    given = strongest({node: score.effect for node, score in scores.items() if node not in decided})
    scores = {node: score for node, score in scores.items() if node in decided}
    evidence = Evidence(spliced, task, effects, scores, seed, progress, start_layer)
    return [*(rule.order(evidence) if scores else []), *given]
