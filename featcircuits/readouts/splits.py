"""fc.promote_suppress, fc.split_by_outcome: which answer a node moves, and whether its sign hangs on the outcome."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from featcircuits.effects.nodes import node_effects
from featcircuits.errors import InputError
from featcircuits.estimators import default_estimator
from featcircuits.estimators.estimator import Estimator
from featcircuits.inputs.ranges import BATCHES, check_number
from featcircuits.model.nodes import Node
from featcircuits.provenance.belonging import check_task
from featcircuits.readouts.answers import RightLogit, WrongLogit, check_judged
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.baselines import Baseline
from featcircuits.tasks.behaviour import behaviour_of
from featcircuits.tasks.task import Task


class TwoEffects(NamedTuple):
    """What a node adds to the mean logit of the right answers and of the wrong ones (less the mean of all logits)."""

    node: Node
    right: float
    right_error: float
    """The standard error over the examples."""
    wrong: float
    wrong_error: float

    @property
    def whole(self) -> float:
        """What it adds to the difference of logits."""
        return self.right - self.wrong

    @property
    def does(self) -> str:
        """The larger of its two effects, in words."""
        if abs(self.right) >= abs(self.wrong):
            return "raises right" if self.right > 0 else "lowers right"
        return "raises wrong" if self.wrong > 0 else "lowers wrong"


def promote_suppress(
    spliced: SplicedModel,
    task: Task,
    estimator: str | Estimator | None = None,
    *,
    baseline: Baseline | None = None,
    count: int | None = None,
    batch_size: int | None = None,
    check: bool = True,
) -> tuple[TwoEffects, ...]:
    """The two effects of every node: on the right answers' logits and on the wrong ones', strongest first.

    A node that raises the wrong set and one that lowers the right set hurt alike under a difference of logits, and are
    different findings. An effect is F(clean) - F(node patched), F the set's mean logit less that of all logits; for
    a linear estimator `right - wrong` is the effect on their difference. `count`: only the strongest by that.
    `baseline`: "paired" for pairs and "zero" otherwise. Raises `InputError` for examples without wrong answers.
    """
    check_task(spliced, task, check)
    if count is not None:
        check_number("count", count, BATCHES)
    sides = [task.with_options(metric=metric) for metric in (RightLogit(), WrongLogit())]
    rows = [TwoEffects(*row) for row in _both(spliced, task, sides, estimator, baseline, batch_size)]
    return tuple(sorted(rows, key=lambda row: -abs(row.whole))[:count])


class Flip(NamedTuple):
    """A node's mean effect where the model answers right and where it answers wrong, with standard errors."""

    node: Node
    right: float
    right_error: float
    wrong: float
    wrong_error: float

    @property
    def flips(self) -> bool:
        """Whether the signs differ, each effect being more than two standard errors from 0."""
        clear = abs(self.right) > 2 * self.right_error and abs(self.wrong) > 2 * self.wrong_error
        return clear and math.copysign(1, self.right) != math.copysign(1, self.wrong)


def split_by_outcome(
    spliced: SplicedModel,
    task: Task,
    estimator: str | Estimator | None = None,
    *,
    baseline: Baseline | None = None,
    batch_size: int | None = None,
    check: bool = True,
) -> tuple[Flip, ...]:
    """Every node's effect on the prompts that are answered right and on the others; clear flips first, then by size.

    Right is judged on the clean prompt, as in `fc.behaviour_of`. Raises `InputError` if fewer than two prompts are on
    either side, which then has no standard error.
    """
    check_task(spliced, task, check)
    check_judged(task)
    outcomes = behaviour_of(spliced, task, batch_size).right_clean
    sides = [[number for number, right in enumerate(outcomes) if right is side] for side in (True, False)]
    if min(map(len, sides)) < 2:
        raise InputError(
            f"{task.name}: {len(sides[0])} prompts are answered right and {len(sides[1])} wrong; a split needs at "
            "least 2 of each"
        )
    rows = [Flip(*row) for row in _both(spliced, task, [*map(task.only, sides)], estimator, baseline, batch_size)]
    return tuple(sorted(rows, key=lambda row: (not row.flips, -min(abs(row.right), abs(row.wrong)))))


def _both(
    spliced: SplicedModel,
    task: Task,
    sides: Sequence[Task],
    estimator: str | Estimator | None,
    baseline: Baseline | None,
    batch_size: int | None,
) -> Iterator[tuple[Node, float, float, float, float]]:
    """Every node with its mean effect and standard error on either of two forms of a task; 0 where it has none."""
    chosen = baseline or ("paired" if task.paired else "zero")
    method = default_estimator(task, chosen) if estimator is None else estimator
    first, second = (_by_node(spliced, side, method, chosen, batch_size) for side in sides)
    none = (0.0, 0.0)
    for node in dict.fromkeys((*first, *second)):
        yield node, *first.get(node, none), *second.get(node, none)


def _by_node(
    spliced: SplicedModel, task: Task, estimator: str | Estimator, baseline: Baseline, batch_size: int | None
) -> dict[Node, tuple[float, float]]:
    found = node_effects(
        spliced, task, estimator, baseline=baseline, keep_examples=False, batch_size=batch_size, check=False
    )
    return {one.node: (one.mean, one.standard_error) for one in found.nodes()}
