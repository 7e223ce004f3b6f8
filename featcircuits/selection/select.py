"""fc.select: every node with an effect, in the order in which a circuit takes them."""

from __future__ import annotations

from featcircuits.circuit.circuit import NodeScore
from featcircuits.effects.nodes import NodeEffects, check_effects
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
    scores = {node: NodeScore(effect, error) for node, effect, error in effects.nodes()}
    decided = set(varying(scores, scope_of(spliced, start_layer), "as-circuit"))
    given = strongest({node: score.effect for node, score in scores.items() if node not in decided})
    scores = {node: score for node, score in scores.items() if node in decided}
    evidence = Evidence(spliced, task, effects, scores, seed, progress, start_layer)
    return [*(rule.order(evidence) if scores else []), *given]
