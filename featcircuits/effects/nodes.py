"""Node effects of a task: any estimator, batch by batch, averaged and per example."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.effects.results import Kept, NodeEffects, SiteRecord
from featcircuits.errors import InputError, known, shortened
from featcircuits.estimators import default_estimator, parse_estimator
from featcircuits.estimators.estimator import Estimator
from featcircuits.estimators.exact import error_effects as exact_error_effects
from featcircuits.inputs.renamed import takes_new_words
from featcircuits.model.sites import Site
from featcircuits.progress import Progress, silent
from featcircuits.provenance.belonging import check_task, identity_of, request_of
from featcircuits.runs.ledger import InMemory, Ledger, Part, Stamped, check_examples, columns
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.baselines import Baseline, check_baseline, mean_states
from featcircuits.states.contraction import SiteEffects
from featcircuits.states.index import NodeIndex, n_features_of
from featcircuits.states.states import States, fitting_batch, states_of
from featcircuits.states.tally import Tally
from featcircuits.tasks.task import Task

STAGE = "nodes"
"""The name of this stage in a ledger."""
LOOP = "node effects"
"""The name of the loop over batches, followed by the estimator's name."""
ERROR_EFFECTS = ("estimated", "exact")


KEPT_BYTES = 1 << 30
"""The most memory for kept batches; if they need more, none is kept and all are computed again."""


def check_error_effects(error_effects: str) -> None:
    """Raise `InputError` for an unknown way to compute the effects of error nodes."""
    if error_effects not in ERROR_EFFECTS:
        raise InputError(f"error_effects is {shortened(error_effects)}; {known(ERROR_EFFECTS, error_effects)}")


@takes_new_words
def node_effects(
    spliced: SplicedModel,
    task: Task,
    estimator: str | Estimator | None = None,
    *,
    baseline: Baseline = "paired",
    error_effects: str = "estimated",
    batch_size: int | None = None,
    keep_examples: bool = True,
    ledger: Ledger | None = None,
    inspect: Callable[[States], None] | None = None,
    check: bool = True,
    progress: Progress = silent,
) -> NodeEffects:
    """Compute the effect of every feature and error node on the task's metric.

    `estimator`: one of `featcircuits.estimators.ESTIMATORS`, as a value (`IntegratedGradients(steps=5)`) or as text
    ("ig:steps=5"); by default "secant" for pairs and "relp" otherwise.
    `baseline`: where patched values come from: the corrupted run ("paired"), zero features and error ("zero"), the
    mean over the task at the places that its prompts have in common ("mean"), or the
    clean prompts' run with Gaussian noise on the embeddings ("noise", or a `featcircuits.tasks.corruption.Noise`).
    `error_effects`: effects of error nodes are "estimated" like those of features, or "exact" by patching each.
    `ledger`: where finished batches are kept, to resume or to split the work (featcircuits.runs.ledger).
    `inspect` is called with the first batch's states before any effect is computed, and may raise.
    `check`: whether the task's tokenizer must be the model's.
    The result keeps states and coefficients if these fit into memory, so that `edge_effects` need not compute
    them again.
    Raises `InputError` for unknown names, unaligned prompts, non-finite activations, and a task of another model.
    """
    check_task(spliced, task, check)
    estimator = default_estimator(task, baseline) if estimator is None else parse_estimator(estimator)
    check_baseline(task, baseline)
    estimator.check(task, baseline)
    check_error_effects(error_effects)
    if not keep_examples:
        task.check_places()
    identity = identity_of(spliced)
    batch_size = fitting_batch(spliced, task, batch_size)
    request = request_of(identity, task, estimator, baseline, error_effects, batch_size, keep_examples)
    ledger = Stamped(ledger, request) if ledger else InMemory()
    count = task.count_batches(batch_size)
    todo = ledger.todo(STAGE, count)
    means = mean_states(spliced, task, batch_size) if baseline == "mean" and todo else None
    kept = _Keeping()
    for number in progress(todo, f"{LOOP} ({estimator})", len(todo)):
        states = states_of(spliced, task, task.nth_batch(batch_size, number), baseline, means)
        if inspect is not None and number == todo[0]:
            inspect(states)
        effects = estimator.effects(spliced, states)
        if error_effects == "exact":
            effects = _exact_errors(spliced, states, effects)
        ledger.put(STAGE, number, _part(spliced, task, states, effects, keep_examples))
        kept.add(number, states, effects)
    parts = ledger.parts(STAGE, count)
    check_examples(parts, len(task))
    corrupted = columns(parts, "corrupted")
    return NodeEffects(
        estimator=estimator,
        baseline=baseline,
        places=task.places,
        n_features=n_features_of(spliced),
        shape=(len(task), task.longest),
        metric_clean=torch.cat(columns(parts, "clean")),
        metric_corrupted=torch.cat(corrupted) if corrupted else None,
        batch_size=batch_size,
        _records={site: _record(parts, site, len(task)) for site in spliced.sites},
        keeps_examples=keep_examples,
        error_effects=error_effects,
        kept=kept.batches,
        identity=identity,
    )


class _Keeping:
    """Keeps batches as long as all of them fit into `KEPT_BYTES`, and otherwise none."""

    def __init__(self) -> None:
        self.batches: dict[int, Kept] = {}
        self.room = KEPT_BYTES

    def add(self, number: int, states: States, effects: Mapping[Site, SiteEffects]) -> None:
        coefficients = {site: own.coefficient for site, own in effects.items() if own.coefficient is not None}
        batch = Kept(states, coefficients)
        self.room -= _bytes(batch)
        if self.room >= 0:
            self.batches[number] = batch
        else:
            self.batches.clear()


def _bytes(kept: Kept) -> int:
    tensors = [*kept.coefficients.values(), *kept.states.streams.values()]
    for state in kept.states.sites.values():
        tensors += [value for value in vars(state).values() if isinstance(value, Tensor)]
    return sum(tensor.nbytes for tensor in {id(tensor): tensor for tensor in tensors}.values())


def _exact_errors(
    spliced: SplicedModel, states: States, effects: Mapping[Site, SiteEffects]
) -> dict[Site, SiteEffects]:
    """The same effects, but with every error node patched."""
    return {site: own._replace(errors=exact_error_effects(spliced, states, site)) for site, own in effects.items()}


def _part(
    spliced: SplicedModel,
    task: Task,
    states: States,
    effects: Mapping[Site, SiteEffects],
    keep_examples: bool,
) -> Part:
    """What a batch adds: metrics, sums over its examples, and single effects if they are kept."""
    part = {"examples": torch.tensor(len(states.batch.index)), "clean": states.metric_clean.cpu()}
    if states.metric_patched is not None:
        part["corrupted"] = states.metric_patched.cpu()
    index = NodeIndex.of(spliced, task.places)
    for site, own in effects.items():
        tally = _tally(index, states, site, own)
        part[f"{site}/keys"], part[f"{site}/sums"] = tally.keys, tally.sums
        if keep_examples:
            part[f"{site}/entries"], part[f"{site}/errors"] = single(states, site, own, task.longest)
    return part


def _record(parts: Mapping[int, Part], site: Site, count: int) -> SiteRecord:
    tally = Tally.total(columns(parts, f"{site}/keys"), columns(parts, f"{site}/sums"), count)
    return SiteRecord(tally, columns(parts, f"{site}/entries"), columns(parts, f"{site}/errors"))


def _tally(index: NodeIndex, states: States, site: Site, effects: SiteEffects) -> Tally:
    """The sums of one batch's effects over its examples, by the nodes' numbers."""
    state, places = states.sites[site], states.batch.places.flatten()
    entries = (state.change != 0).nonzero()[:, 0]
    error_rows = ((places >= 0) & (state.error_change != 0).any(-1).flatten()).nonzero()[:, 0]
    row = torch.cat([state.row[entries], error_rows])
    node = torch.cat([state.feature[entries], torch.full_like(error_rows, index.n_features[site])])
    value = torch.cat([effects.features[entries], effects.errors.flatten()[error_rows]])

    tally = Tally()
    tally.add(row // state.slots, index.numbers(site, places[row], node), value, index.count(site))
    return tally


class Single(NamedTuple):
    """Effects of one site by example, in one batch."""

    entries: Tensor
    """[4, n]: as `NodeEffects.entries`"""
    errors: Tensor
    """[example, position]"""


def single(states: States, site: Site, effects: SiteEffects, longest: int) -> Single:
    """Effects at slots of a batch as those at positions of prompts, of which the longest has that many."""
    state, tokens = states.sites[site], states.batch.clean
    example, position = states.batch.index[(state.row // state.slots).cpu()], tokens.positions.flatten()[state.row]
    columns = [example, position.cpu(), state.feature.cpu(), effects.features.cpu()]

    real, errors = (tokens.mask > 0), effects.errors
    rows = torch.arange(len(errors), device=errors.device)[:, None].expand_as(real)
    aligned = torch.zeros(len(errors), longest, dtype=errors.dtype)
    aligned[rows[real].cpu(), tokens.positions[real].cpu()] = errors[real].cpu()
    return Single(torch.stack([column.double() for column in columns]), aligned)
