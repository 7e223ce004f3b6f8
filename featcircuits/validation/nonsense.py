"""The nonsense control: the same prompts with answers that no mechanism can serve."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace

from featcircuits.effects.nodes import node_effects
from featcircuits.errors import InputError
from featcircuits.estimators.estimator import Estimator
from featcircuits.inputs.names import made_name
from featcircuits.inputs.ranges import SEEDS, check_number
from featcircuits.model.nodes import Node
from featcircuits.selection import DEFAULT_SELECTION
from featcircuits.selection.rule import SelectionRule
from featcircuits.selection.select import select as select_nodes
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.baselines import Baseline
from featcircuits.tasks.task import Task


def nonsense_task(task: Task, seed: int = 0) -> Task:
    """The task with right and wrong answers exchanged in half of the examples, drawn by `seed`.

    The half is drawn among the examples of each pair of answers, so that F of the model is about as often above 0 as
    below, and nothing in a prompt says which. Its F(model) is no measure to divide by; a circuit's gain on it,
    F(circuit) - F(empty), is compared with F(model) - F(empty) of the task itself. An honest way to choose nodes gains
    nothing here. Raises `InputError` for examples without wrong answers, and fewer than two of them.
    """
    check_number("seed", seed, SEEDS)
    groups: defaultdict[frozenset[tuple[int, ...]], list[int]] = defaultdict(list)
    for number, example in enumerate(task.examples):
        if not example.corrupted_answers:
            raise InputError(f"{task.name}, example {number + 1}: no wrong answer, so there is nothing to exchange")
        groups[frozenset((example.clean_answers, example.corrupted_answers))].append(number)
    if len(task) < 2:
        raise InputError(f"{task.name}: one example has no half; give more")
    generator, exchanged, extra = random.Random(seed), set(), False
    for numbers in generator.sample([*groups.values()], len(groups)):
        drawn = generator.sample(numbers, len(numbers))
        # groups of odd size give one more and one less in turns
        half = len(drawn) // 2 + (len(drawn) % 2 and extra)
        extra ^= bool(len(drawn) % 2)
        exchanged.update(drawn[:half])
    examples = tuple(
        replace(each, clean_answers=each.corrupted_answers, corrupted_answers=each.clean_answers)
        if number in exchanged
        else each
        for number, each in enumerate(task.examples)
    )
    return replace(task, examples=examples, name=made_name(f"{task.name} (nonsense)"), keep_wrong=True)


def chosen_on_nonsense(
    spliced: SplicedModel,
    training: Task,
    *,
    estimator: str | Estimator | None = None,
    select: str | SelectionRule = DEFAULT_SELECTION,
    baseline: Baseline = "paired",
    start_layer: int = 0,
    seed: int = 0,
    rule_seed: int = 0,
    batch_size: int | None = None,
    check: bool = True,
) -> list[Node]:
    """The nodes in the order that the same method finds on training prompts made nonsense by `seed`."""
    prompts = nonsense_task(training, seed)
    effects = node_effects(
        spliced, prompts, estimator, baseline=baseline, batch_size=batch_size, keep_examples=False, check=check
    )
    return select_nodes(spliced, prompts, effects, select, start_layer=start_layer, seed=rule_seed, check=check)
