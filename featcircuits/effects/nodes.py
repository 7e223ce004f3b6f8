"""Node effects of a task: any estimator, batch by batch, averaged and per example."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.errors import InputError, known, shortened
from featcircuits.estimators import default_estimator, parse_estimator
from featcircuits.estimators.estimator import Estimator
from featcircuits.estimators.exact import error_effects as exact_error_effects
from featcircuits.inputs.arguments import expect
from featcircuits.inputs.renamed import takes_new_words
from featcircuits.model.nodes import Node, Place
from featcircuits.model.sites import Site
from featcircuits.progress import Progress, silent
from featcircuits.provenance.belonging import Identity, check_same, check_task, identity_of, request_of
from featcircuits.runs.ledger import InMemory, Ledger, Part, Stamped, check_examples, columns
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.baselines import Baseline, check_baseline, mean_states
from featcircuits.states.contraction import SiteEffects
from featcircuits.states.index import NodeIndex, n_features_of
from featcircuits.states.states import States, fitting_batch, states_of
from featcircuits.states.tally import Tally
from featcircuits.tasks.task import Task


class SiteMeans(NamedTuple):
    """The nodes of a site that patching changes in some example, as columns of equal length.

    `place` indexes the task's places; `node` is a feature, or `n_features` for the error.
    """

    place: Tensor
    node: Tensor
    mean: Tensor
    mean_abs: Tensor
    standard_error: Tensor


class NodeEffect(NamedTuple):
    """A node's mean effect over the task, and its standard error over the examples."""

    node: Node
    mean: float
    standard_error: float


class _SiteRecord(NamedTuple):
    """The effects at one site over all batches."""

    tally: Tally
    entries: list[Tensor]
    """One tensor [4, n] per batch: example, position, feature, and (as float64) value."""
    errors: list[Tensor]


STAGE = "nodes"
"""The name of this stage in a ledger."""
LOOP = "node effects"
"""The name of the loop over batches, followed by the estimator's name."""
ERROR_EFFECTS = ("estimated", "exact")


class Kept(NamedTuple):
    """A batch's states and coefficients, kept for later computations."""

    states: States
    coefficients: Mapping[Site, Tensor]


KEPT_BYTES = 1 << 30
"""The most memory for kept batches; if they need more, none is kept and all are computed again."""


@dataclass(frozen=True, eq=False)
class NodeEffects:
    """The effects on m of patching each node: means over the task, and per example if kept.

    m = -F, so a positive effect means that the node carries the behaviour.
    """

    estimator: Estimator
    baseline: Baseline
    places: tuple[Place, ...]
    n_features: Mapping[Site, int]
    shape: tuple[int, int]
    """(number of examples, number of positions)."""
    metric_clean: Tensor
    """m of the clean prompts [example]"""
    metric_corrupted: Tensor | None
    """m of the corrupted prompts [example]; None without pairs"""
    batch_size: int
    _records: Mapping[Site, _SiteRecord] = field(repr=False)
    keeps_examples: bool = True
    error_effects: str = "estimated"
    kept: Mapping[int, Kept] = field(default_factory=dict, repr=False)
    """Index of a batch -> its kept states: all batches that this process computed, or none."""
    identity: Identity | None = field(default=None, repr=False)
    """The identity of the model that the effects were computed on."""

    @property
    def sites(self) -> tuple[Site, ...]:
        """The spliced sites, in forward order."""
        return tuple(self.n_features)

    @property
    def total_effect(self) -> Tensor:
        """m(corrupted) - m(clean) [example]."""
        if self.metric_corrupted is None:
            raise InputError("there is no total effect: the task has no corrupted prompts")
        return self.metric_corrupted - self.metric_clean

    def features(self, site: str | Site) -> Tensor:
        """The effect of every feature, as a dense tensor [example, position, feature]."""
        entries = self.entries(site)
        dense = torch.zeros(*self.shape, self.n_features[self._site(site)], dtype=self.metric_clean.dtype)
        example, position, feature = entries[:3].long()
        dense[example, position, feature] = entries[3].to(dense.dtype)
        return dense

    def error(self, site: str | Site) -> Tensor:
        """The effect of the error node [example, position]."""
        self._check_examples()
        return torch.cat(self._records[self._site(site)].errors)

    @property
    def index(self) -> NodeIndex:
        """The index that numbers the nodes; sums are kept by these numbers."""
        return NodeIndex(self.places, self.n_features)

    def means(self, site: str | Site) -> SiteMeans:
        """Every node's mean effect over the examples, at the task's places."""
        site = self._site(site)
        tally = self._records[site].tally
        return SiteMeans(*self.index.split(site, tally.keys), tally.mean, tally.mean_abs, tally.standard_error)

    def nodes(self) -> Iterator[NodeEffect]:
        """Every node with an effect."""
        index = self.index
        for site in self.sites:
            tally = self._records[site].tally
            some = tally.mean != 0
            columns = tally.mean[some].tolist(), tally.standard_error[some].tolist()
            yield from map(NodeEffect, index.nodes(site, tally.keys[some].tolist()), *columns)

    def moving(self) -> Iterator[Node]:
        """Every node that patching changes in some example, whatever its effect."""
        index = self.index
        for site in self.sites:
            yield from index.nodes(site, self._records[site].tally.keys.tolist())

    def entries(self, site: str | Site) -> Tensor:
        """Every feature that is active or changes, as columns [4, n]: example, position, feature, effect.

        Two estimators on the same task have the same columns in the same order.
        """
        self._check_examples()
        return torch.cat(self._records[self._site(site)].entries, dim=1)

    def _check_examples(self) -> None:
        if not self.keeps_examples:
            raise InputError("per-example effects were not kept; call node_effects(..., keep_examples=True)")

    def _site(self, site: str | Site) -> Site:
        site = Site.parse(site)
        if site not in self.n_features:
            raise InputError(f"no effects at {site}: the suite has no dictionary there")
        return site


def check_effects(spliced: SplicedModel, task: Task, effects: NodeEffects, check: bool = True) -> None:
    """Raise `InputError` for effects of other examples or missing sites and, unless `check` is False, another model."""
    expect("effects", effects, NodeEffects)
    if effects.shape != (len(task), task.longest):
        raise InputError(
            f"the effects are of {effects.shape[0]} other examples than the {len(task)} of {task.name}; compute them "
            "on it"
        )
    if effects.places != task.places:
        raise InputError(
            f"the effects are at places {shortened(list(effects.places))}, and {task.name} has "
            f"{shortened(list(task.places))}; compute them under aggregate={task.aggregate!r}"
        )
    if check and effects.identity is not None:
        check_same("effects", effects.identity, spliced)
    if sizes := n_features_of(spliced).items() ^ effects.n_features.items():
        site = min(site for site, _ in sizes)
        raise InputError(
            f"the effects are of other dictionaries than the model's, the first at {site}; compute them again"
        )


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


def _record(parts: Mapping[int, Part], site: Site, count: int) -> _SiteRecord:
    tally = Tally.total(columns(parts, f"{site}/keys"), columns(parts, f"{site}/sums"), count)
    return _SiteRecord(tally, columns(parts, f"{site}/entries"), columns(parts, f"{site}/errors"))


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
