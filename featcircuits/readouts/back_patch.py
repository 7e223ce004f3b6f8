"""fc.back_patch: states of a late layer put into an earlier one at the same tokens, over a grid, beside controls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from featcircuits.dictionaries.decomposition import wide
from featcircuits.errors import InputError, shortened
from featcircuits.inputs.ranges import SEEDS, check_number
from featcircuits.interventions.edited import edit_of
from featcircuits.interventions.how import OWN, Take
from featcircuits.interventions.intervention import Intervention
from featcircuits.interventions.moves import Activation
from featcircuits.interventions.named import Named
from featcircuits.interventions.parts import Part
from featcircuits.interventions.plan import Plan, planned
from featcircuits.interventions.where import Frame, Where, parse_where
from featcircuits.model.sites import Site, resid
from featcircuits.progress import Progress, silent
from featcircuits.provenance.belonging import check_task
from featcircuits.readouts.answers import answered, check_judged
from featcircuits.readouts.grid import OTHERS, OWN_STATES, RANDOM, BackPatched, Cell
from featcircuits.splicing.finite import check_finite
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.states import Objective, fitting_batch
from featcircuits.tasks.task import Batch, Task

_States = Mapping[Site, Sequence[Tensor]]
"""Source site -> the states at a place, one tensor [token, width] per example."""


def back_patch(
    spliced: SplicedModel,
    task: Task,
    *,
    places: Iterable[Where] = (-1,),
    sources: Iterable[int] | None = None,
    targets: Iterable[int] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    check: bool = True,
    progress: Progress = silent,
) -> BackPatched:
    """Give layer t the residual stream of a later layer s, h_t <- h_s at the same tokens, and see what is answered.

    Every pair with t <= s of `sources` and `targets` (layers; by default all) is tried at each of `places` (positions,
    slices, roles, "all"). States come from the unedited run of the same prompt (Biran et al. 2024). Success is a
    right answer: a right answer's logit above every wrong one's or, without wrong answers, above all others. The same
    grid is run with the states of another example of the task, and with random vectors as long as the states; and
    answers that were right and are not any more count as well, since the best of many trials flatters.
    With t = s nothing changes, to the last bit. Raises `InputError` for layers and places that do not exist, a
    metric without answers, and a task of one example, which has no other.
    """
    check_task(spliced, task, check)
    check_judged(task)
    check_number("seed", seed, SEEDS)
    if len(task) < 2:
        raise InputError(f"{task.name}: the control with other examples' states needs at least 2 examples, not 1")
    layers = range(spliced.architecture.n_layers)
    first, second = (_layers(what, given, layers) for what, given in (("sources", sources), ("targets", targets)))
    at = tuple(dict.fromkeys(parse_where(place) for place in places))
    pairs = [(s, t, place) for place in at for s in first for t in second if t <= s]
    if not pairs:
        raise InputError("no target is at or before a source, so nothing can be patched back; give earlier targets")
    size = fitting_batch(spliced, task, batch_size, gradients=False)
    plans = [_plan(spliced, task, *pair, size) for pair in pairs]
    unedited = _unedited(spliced, task, size)
    states = {place: _recorded(spliced, task, place, first, size) for place in at}
    other = _others(len(task), seed)
    cells = []
    for (source, target, place), plan in progress(list(zip(pairs, plans, strict=True)), "back-patching", len(pairs)):
        rows = states[place][resid(source)]
        tables = {OWN_STATES: rows, OTHERS: [_fitted(rows[o], len(own)) for own, o in zip(rows, other, strict=True)]}
        tables[RANDOM] = [_random(own, seed, source, number) for number, own in enumerate(rows)]
        found = {name: _run(plan, table, unedited, size) for name, table in tables.items()}
        cells.append(
            Cell(
                source, target, str(place),
                {name: right for name, (right, _) in found.items()}, {name: F for name, (_, F) in found.items()},
            )
        )  # fmt: skip
    right, F = _judged(task, unedited, unedited, size)
    return BackPatched(task.name, str(task.metric), right, F, tuple(cells))


def _layers(what: str, given: Iterable[int] | None, layers: range) -> list[int]:
    found = list(layers) if given is None else sorted(set(given))
    if wrong := [layer for layer in found if type(layer) is not int or layer not in layers]:
        raise InputError(f"{what}: {shortened(wrong[0])} is not a layer; give layers from 0 to {layers[-1]}")
    if not found:
        raise InputError(f"{what} is empty; give at least one layer")
    return found


def _plan(spliced: SplicedModel, task: Task, source: int, target: int, place: Where, size: int) -> Plan:
    one = Intervention(resid(target), Take(OWN, resid(source), place), place)
    return planned(spliced.only([]), task, one, Named(), size)


def _recorded(spliced: SplicedModel, task: Task, place: Where, sources: Sequence[int], size: int) -> _States:
    rows: dict[Site, list[Tensor]] = {resid(source): [] for source in sources}
    for batch in task.batches(size):
        logits, seen = spliced.record(batch.clean.to(spliced.device), list(rows))
        check_finite(logits, seen)
        chosen = _frame(task, batch).at(place).to(spliced.device)
        for site, found in rows.items():
            found += [wide(x[here]) for x, here in zip(seen[site], chosen, strict=True)]
    return rows


def _frame(task: Task, batch: Batch) -> Frame:
    return Frame.of(batch.clean, [task.examples[number] for number in batch.index.tolist()])


def _others(count: int, seed: int) -> list[int]:
    """Another example for each: the next one in a random circle."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    after = dict(zip(order, order[1:] + order[:1], strict=True))
    return [after[number] for number in range(count)]


def _fitted(rows: Tensor, count: int) -> Tensor:
    """As many rows, from the end backwards, and the first again and again where there are too few."""
    return rows[torch.arange(len(rows) - count, len(rows)).clamp(min=0).to(rows.device)]


def _random(rows: Tensor, seed: int, source: int, number: int) -> Tensor:
    """Random directions, each as long as its row."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + source * 10_007 + number) % (2**63))
    drawn = torch.randn(rows.shape, generator=generator, dtype=torch.float64).to(rows)
    return drawn / drawn.norm(dim=-1, keepdim=True) * rows.norm(dim=-1, keepdim=True)


def _unedited(spliced: SplicedModel, task: Task, size: int) -> list[Tensor]:
    """The unedited answer logits [example, vocabulary] of each batch."""
    return [spliced.record(batch.clean, [])[0] for batch in task.batches(size)]


def _run(
    plan: Plan, states: Sequence[Tensor], unedited: Sequence[Tensor], size: int
) -> tuple[tuple[bool, ...], tuple[float, ...]]:
    """Right and F of each example with these states [token, width] put in."""
    sites, logits = {part.site for part in plan.parts}, []
    for batch in plan.task.batches(size):
        frame = _frame(plan.task, batch.to(plan.spliced.device))
        put = torch.cat([states[number] for number in batch.index.tolist()])

        def given(part: Part, at: Tensor, frame: Frame, local: Activation, put: Tensor = put) -> Tensor:
            rank = frame.at(part.where).flatten().cumsum(0) - 1
            return put[rank[at]]

        edit = edit_of(plan.spliced, plan.parts, frame, given)
        with torch.no_grad():
            logits.append(plan.spliced.run_reading(batch.clean, edit, sites=sites, answers_only=True))
    return _judged(plan.task, logits, unedited, size)


def _judged(
    task: Task, logits: Sequence[Tensor], unedited: Sequence[Tensor], size: int
) -> tuple[tuple[bool, ...], tuple[float, ...]]:
    """Right and F of each example, from each batch's logits."""
    right: list[bool] = []
    F: list[float] = []
    for batch, own, before in zip(task.batches(size), logits, unedited, strict=True):
        batch = batch.to(own.device)
        right += answered(own, batch.answers).tolist()
        F += (-Objective.of(task, batch, before)(own)).double().tolist()
    return tuple(right), tuple(F)
