"""fc.select: every node with an effect, in the order in which a circuit takes them."""

from __future__ import annotations

from dataclasses import replace

from featcircuits.circuit.circuit import NodeScore
from featcircuits.effects.results import NodeEffects, check_effects
from featcircuits.evaluation.scope import scope_of, varying
from featcircuits.inputs.ranges import SEEDS, check_number
from featcircuits.model.nodes import Node
from featcircuits.progress import Progress, silent
from featcircuits.provenance.belonging import check_task
from featcircuits.selection import DEFAULT_SELECTION, parse_selection
from featcircuits.selection.evidence import Evidence, strongest
from featcircuits.selection.rule import SelectionRule
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.tasks.task import Task


def select(
    spliced: SplicedModel,
    task: Task,
    effects: NodeEffects,
    rule: str | SelectionRule = DEFAULT_SELECTION,
    *,
    start_layer: int = 0,
    seed: int = 0,
    check: bool = True,
    progress: Progress = silent,
) -> list[Node]:
    """Every node with an effect, in the order in which a circuit takes them.

    `effects`: any estimator's effects on the task. `rule`: one of `featcircuits.selection.SELECTIONS`, as a value
    (`Ratio(positive=0.8)`) or as text ("ratio:positive=0.8").
    `start_layer`: the start layer of the later evaluation. The nodes of layers before it (and of the embedding)
    come last, by |effect|, and searching rules do not ablate them.
    Raises `InputError` for unknown rules and options, if a rule lacks something that it needs, and, unless `check` is
    False, for effects of another model.
    """
    check_task(spliced, task, check)
    check_effects(spliced, task, effects, check)
    check_number("seed", seed, SEEDS)
    rule = parse_selection(rule)
    rule.check(task, effects.baseline)
    return ordered(Evidence(spliced, task, effects, scores_of(effects), seed, progress, start_layer), rule)


def scores_of(effects: NodeEffects) -> dict[Node, NodeScore]:
    """The score of every node with an effect, in forward order."""
    return {node: NodeScore(effect, error) for node, effect, error in effects.nodes()}


def ordered(evidence: Evidence, rule: SelectionRule) -> list[Node]:
    """The nodes of some evidence in the order of a rule; those of layers before its start layer come last."""
    scores = evidence.scores
    decided = varying(scores, scope_of(evidence.spliced, evidence.start_layer), "as-circuit")
    given: list[Node] = []
    if len(decided) < len(scores):
        kept = set(decided)
        given = strongest({node: score.effect for node, score in scores.items() if node not in kept})
        evidence = replace(evidence, scores={node: scores[node] for node in decided})
    return [*(rule.order(evidence) if evidence.scores else []), *given]
