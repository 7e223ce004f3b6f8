"""fc.control_curves: the curve of an order of nodes under every ablation, beside controls that it must beat."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from featcircuits.circuit.circuit import Circuit
from featcircuits.errors import InputError
from featcircuits.estimators.estimator import Estimator
from featcircuits.evaluation import ABLATIONS
from featcircuits.evaluation.ablated import AblatedModel, Subgraph, check_error_nodes, metric_model, ranks_of
from featcircuits.evaluation.ablations import Ablation, prepared_ablation
from featcircuits.evaluation.curves import check_sizes, default_sizes, shuffled
from featcircuits.evaluation.evaluate import check_match, order_of
from featcircuits.evaluation.faithfulness import Reference, area, faithfulness, invalid_reason
from featcircuits.evaluation.scope import scope_of, varying
from featcircuits.files.plain import plain
from featcircuits.inputs.ranges import SEEDS, Range, check_number
from featcircuits.inputs.renamed import takes_new_words
from featcircuits.model.nodes import Node
from featcircuits.progress import Progress, silent
from featcircuits.provenance.belonging import check_circuit, check_task
from featcircuits.selection import DEFAULT_SELECTION, parse_selection
from featcircuits.selection.rule import SelectionRule
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.baselines import Baseline
from featcircuits.states.states import fitting_batch
from featcircuits.tasks.behaviour import require_behaviour
from featcircuits.tasks.task import Task
from featcircuits.validation.constants import optimal_constants
from featcircuits.validation.nonsense import chosen_on_nonsense, nonsense_task
from featcircuits.validation.outside import LOW, Cube, drawn_scores, extremes, worst_of

_POINTS = 6
NO_TRAINING = "needs the prompts that the circuit was found on: give training"


@dataclass(frozen=True)
class ControlCurve:
    """One line of the picture: scores at every size, or the reason why there are none.

    `scores` are f = (F(C) - F(empty)) / (F(model) - F(empty)) with the empty circuit under the same ablation; those of
    the nonsense control are its F(C) - F(empty) divided by the real F(model) - F(empty). `at_zero`: with no node kept.
    `area`: the mean over sizes from 0 to the last, with straight lines between the points. Nothing is clipped.
    """

    name: str
    scores: tuple[float, ...] | None
    at_zero: float | None
    area: float | None
    F_empty: float | None
    invalid: str | None


@dataclass(frozen=True)
class ControlCurves:
    """The curves of one order of nodes on one task; look one up by its name: `curves["adversarial"]`.

    "mean", "zero", "resample", "paired": all else ablated so. "optimal": by constants learned on the training prompts.
    "random": circuits of the same size at each site, under `ablation`. "stochastic", "stochastic 5 %": the mean and the
    5 % quantile over draws of a factor r ~ U(0, 1) for each outside node. "adversarial", "adversarial few": the f
    furthest from 1 that a search over these factors found, over all outside nodes and over the `budget` that matter
    most; a bound from one side. "nonsense": the gain of circuits chosen in the same way on the training prompts with
    half of the answers exchanged, on held-out prompts treated alike, in units of the real F(model) - F(empty).
    """

    curves: tuple[ControlCurve, ...]
    sizes: tuple[int, ...]
    ablation: str
    F_model: float
    budget: int
    draws: int
    steps: int
    starts: int
    n_examples: int
    task: str
    metric: str
    error_nodes: str
    start_layer: int
    seed: int

    def __getitem__(self, name: str) -> ControlCurve:
        found = {curve.name: curve for curve in self.curves}
        if name not in found:
            raise InputError(f"there is no curve {name!r}; there are: {', '.join(found)}")
        return found[name]

    def to_json(self) -> dict[str, Any]:
        """The curves as plain JSON values; NaN becomes null."""
        return plain(asdict(self))


@takes_new_words
def control_curves(
    spliced: SplicedModel,
    circuit: Circuit,
    task: Task,
    *,
    training: Task | None = None,
    estimator: str | Estimator | None = None,
    select: str | SelectionRule = DEFAULT_SELECTION,
    baseline: Baseline = "paired",
    ranking: Circuit | Sequence[Node | str] | None = None,
    sizes: Sequence[int] | None = None,
    ablation: str = "mean",
    error_nodes: str = "as-circuit",
    start_layer: int = 0,
    draws: int = 5,
    nonsense: int = 2,
    steps: int = 6,
    starts: int = 2,
    budget: int = 10,
    learning: int = 120,
    seed: int = 0,
    batch_size: int | None = None,
    check: bool = True,
    progress: Progress = silent,
) -> ControlCurves:
    """The curve of a circuit's nodes, or of a `ranking`, under every ablation and beside every control.

    `task`: held-out prompts. `training`: those that the nodes were found on, with `estimator`, `select` and `baseline`
    as then; without them the optimal constants and the nonsense control are left out, with that reason. `draws`: of
    random circuits and of stochastic ablation, `nonsense`: of exchanged answers. `steps`, `starts`, `budget`: of the
    adversary, as for `fc.probe_outside`; `learning`: steps of the constants. `ablation`: what the random, partial and
    nonsense curves ablate with. `sizes`: 6 by default, evenly on a log axis. An ablation that does not suit the task
    has a reason in place of scores. Raises `InputError` as `fc.evaluate` does.
    """
    check_task(spliced, task, check)
    check_circuit(spliced, circuit, check=check, whole=True)
    ABLATIONS.named(ablation).check(task)
    check_error_nodes(error_nodes)
    rule = parse_selection(select)
    for what, value in (
        ("draws", draws), ("nonsense", nonsense), ("steps", steps), ("starts", starts), ("budget", budget),
        ("learning", learning),
    ):  # fmt: skip
        check_number(what, value, Range(1, 10_000))
    check_number("seed", seed, SEEDS)
    scope = scope_of(spliced, start_layer)
    check_match(circuit, task)
    order = varying(order_of(spliced, task, circuit if ranking is None else ranking), scope, error_nodes)
    chosen = default_sizes(order, _POINTS) if sizes is None else check_sizes(sizes, len(order))
    require_behaviour(spliced, task)
    size = fitting_batch(spliced, task, batch_size, most=32)
    judge = _Judge(scope, task, order, chosen, error_nodes, start_layer, size, seed)

    curves = [judge.plain(name, _named(name, judge)) for name in ABLATIONS]

    def learned() -> Ablation:
        if training is None:
            raise InputError(NO_TRAINING)
        return optimal_constants(
            spliced, training, order, error_nodes=error_nodes, start_layer=start_layer, steps=learning, seed=seed,
            batch_size=batch_size, check=check, progress=progress,
        )  # fmt: skip

    def found_again(number: int) -> tuple[list[Node], Task]:
        if training is None:
            raise InputError(NO_TRAINING)
        nodes = chosen_on_nonsense(
            spliced, training, estimator=estimator, select=rule, baseline=baseline, start_layer=start_layer,
            seed=seed + number, rule_seed=seed, batch_size=batch_size, check=check,
        )  # fmt: skip
        return varying(nodes, scope, error_nodes), nonsense_task(task, seed + number)

    values = prepared_ablation(ablation, scope, task, size, seed)
    curves.append(judge.plain("optimal", learned))
    curves += judge.around(values, draws, steps, starts, budget, progress)
    real = next(curve for curve in curves if curve.name == ablation)
    curves.append(judge.nonsense(real, found_again, nonsense))
    return ControlCurves(
        tuple(curves), tuple(chosen), ablation, judge.F_model, budget, draws, steps, starts, len(task), task.name,
        str(task.metric), error_nodes, start_layer, seed,
    )  # fmt: skip


def _named(name: str, judge: _Judge) -> Callable[[], Ablation]:
    return lambda: prepared_ablation(name, judge.scope, judge.task, judge.batch_size, judge.seed)


@dataclass(frozen=True, eq=False)
class _Judge:
    """What all curves share."""

    scope: SplicedModel
    task: Task
    order: Sequence[Node]
    sizes: Sequence[int]
    error_nodes: str
    start_layer: int
    batch_size: int
    seed: int

    @cached_property
    def model(self) -> Tensor:
        """F of the unedited model [example]."""
        return metric_model(self.scope, self.task, self.batch_size)

    @property
    def F_model(self) -> float:
        """Its mean."""
        return float(self.model.mean())

    def plain(self, name: str, make: Callable[[], Ablation]) -> ControlCurve:
        """f of every size with all else ablated."""
        try:
            ablated = self.ablated(make())
        except InputError as error:
            return _without(name, str(error))
        ranks = ranks_of(self.scope, self.task.places, self.order)
        metric = ablated.metric(self.task, [Subgraph(ranks, size) for size in (0, *self.sizes)])
        means = metric.mean(1).tolist()
        if (reason := invalid_reason(self.model, metric[0])) is not None:
            return ControlCurve(name, None, None, None, means[0], reason)
        reference = Reference(self.F_model, means[0])
        return self.curve(name, [faithfulness(mean, reference) for mean in means[1:]], means[0])

    def ablated(self, values: Ablation) -> AblatedModel:
        """The model under an ablation."""
        return AblatedModel(self.scope, values, self.error_nodes, self.start_layer, self.batch_size)

    def curve(self, name: str, scores: Sequence[float], F_empty: float, at_zero: float = 0.0) -> ControlCurve:
        """A curve with its area."""
        return ControlCurve(name, tuple(scores), at_zero, area(self.sizes, scores, at_zero), F_empty, None)

    def around(
        self, values: Ablation, draws: int, steps: int, starts: int, budget: int, progress: Progress
    ) -> list[ControlCurve]:
        """Random circuits, and the circuits with their outside ablated at random and at its worst."""
        names = ("stochastic", "stochastic 5 %", "adversarial", "adversarial few")
        ablated, task = self.ablated(values), self.task
        ranks = ranks_of(self.scope, task.places, self.order)
        empty = ablated.metric(task, [Subgraph(ranks, 0)])[0]
        if (reason := invalid_reason(self.model, empty)) is not None:
            return [_without(name, reason) for name in ("random", *names)]
        reference = Reference(self.F_model, float(empty.mean()))
        controls = [ranks_of(self.scope, task.places, shuffled(self.order, self.seed + draw)) for draw in range(draws)]
        found = ablated.metric(task, [Subgraph(one, size) for one in controls for size in self.sizes]).mean(1)
        means = found.reshape(draws, -1).mean(0).tolist()
        random = self.curve("random", [faithfulness(mean, reference) for mean in means], reference.empty)
        cube, rows = Cube.of(ablated, task, Subgraph(ranks, 0)), []
        for size in progress([0, *self.sizes], "probing the outside", len(self.sizes) + 1):
            own = cube.around(Subgraph(ranks, size))
            drawn = drawn_scores(own, reference, draws, self.seed)
            worst = [worst_of(*extremes(own, reference, steps, starts, most, self.seed)[:2]) for most in (None, budget)]
            rows.append((math.fsum(drawn) / draws, float(np.quantile(drawn, LOW)), *worst))
        columns = zip(names, zip(*rows, strict=True), strict=True)
        return [random, *(self.curve(name, row[1:], reference.empty, row[0]) for name, row in columns)]

    def nonsense(
        self, real: ControlCurve, found_again: Callable[[int], tuple[list[Node], Task]], draws: int
    ) -> ControlCurve:
        """The gain on nonsense of circuits chosen on it, mean over draws, in units of the gap of the `real` curve."""
        if real.F_empty is None or real.invalid is not None:
            return _without("nonsense", real.invalid or "")
        gap = self.F_model - real.F_empty
        gains = []
        try:
            for number in range(draws):
                nodes, task = found_again(number)
                ranks = ranks_of(self.scope, task.places, nodes)
                ablated = self.ablated(prepared_ablation(real.name, self.scope, task, self.batch_size, self.seed))
                means = ablated.metric(task, [Subgraph(ranks, size) for size in (0, *self.sizes)]).mean(1).numpy()
                gains.append((means[1:] - means[0]) / gap)
        except InputError as error:
            return _without("nonsense", str(error))
        return self.curve("nonsense", np.mean(gains, 0).tolist(), real.F_empty)


def _without(name: str, reason: str) -> ControlCurve:
    return ControlCurve(name, None, None, None, None, reason)
