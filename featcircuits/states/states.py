"""States of a batch at every site: what patching changes, feature by feature.

At a site the clean activation is `x = decode(f) + error`. Patching moves each feature by
`change` and the error by `error_change`. Since decode is affine, the activation moves by the sum of
`change * decoder row` and `error_change`. Features that neither state activates cannot have an
effect and are never stored: dense [example, position, feature] tensors exist for one site at a time.

A transcoder's features read the MLP's input. The bypass past them belongs to no
node: through it the nodes before the MLP reach those after it, and it is never patched.
If a dictionary normalises its input, decoder rows are multiplied by the clean run's `scale`, and
the change due to another scale or shift belongs to the error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.dictionaries import Dictionary
from featcircuits.dictionaries.decomposition import precision, wide, written
from featcircuits.inputs.ranges import BATCHES, check_number
from featcircuits.model.sites import EMBED, Site, resid
from featcircuits.splicing.finite import check_finite
from featcircuits.splicing.memory import rows_at_once
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.baselines import (
    DENSE_NUMBERS,
    Baseline,
    Means,
    Patched,
    patched_by_run,
    patched_by_zero,
)
from featcircuits.tasks.corruption import Noise
from featcircuits.tasks.metrics import Answers, Metric, mean_slope
from featcircuits.tasks.task import Batch, Task

ROUNDING = 8
"""In multiples of the precision: runs of different shapes differ by about 4, pairs of prompts by thousands."""


class Objective(NamedTuple):
    """m = -F for the rows of a run; effects are changes of m."""

    metric: Metric
    answers: Answers
    toward: Tensor | None = None
    """The logits of the patched run; if given, m's gradient is its mean on the straight line to them."""

    @classmethod
    def of(cls, task: Task, batch: Batch, unedited: Tensor) -> Objective:
        """The objective for runs on a batch, whose unedited run has these logits."""
        answers = Answers(batch.answers.clean, batch.answers.corrupted, wide(unedited))
        return cls(task.F, answers)

    def __call__(self, logits: Tensor) -> Tensor:
        assert self.answers.reference is not None
        assert logits.shape == self.answers.reference.shape, "answers count other logits than the run computed"
        logits = wide(logits)
        if self.toward is None:
            return -self.metric(logits, self.answers)
        start = logits.detach()
        slope = mean_slope(self.metric, self.answers, start, self.toward.to(logits.dtype))
        return -self.metric(start, self.answers) - ((logits - start) * slope).sum(-1)

    def select(self, rows: Tensor) -> Objective:
        """The objective for a run whose row r repeats example `rows[r]`."""
        return Objective(self.metric, self.answers.select(rows), None if self.toward is None else self.toward[rows])


class Moving(NamedTuple):
    """Which nodes of a site patching changes at all."""

    features: Tensor
    """[n] feature entries"""
    errors: Tensor
    """[example, slot]"""


@dataclass(frozen=True, eq=False)
class SiteState:
    """The state of one site in one batch.

    `x`: the clean activation, `x_change`: what patching all the site's nodes adds to it, `error_change`:
    the part of that which no feature explains; all [example, slot, width]. `read`: what the dictionary encodes in
    the clean run [example, slot, read_width]. The n feature entries are sorted by `row` = example *
    slots + slot; each has its `feature`, its clean `value`, its `change` by patching, and
    whether it is `active` in the clean run. `scale` [example * slots]: that of decoder rows; None for 1.
    """

    x: Tensor
    read: Tensor
    x_change: Tensor
    error_change: Tensor
    row: Tensor
    feature: Tensor
    value: Tensor
    change: Tensor
    active: Tensor
    scale: Tensor | None = None

    @property
    def slots(self) -> int:
        """The number of token slots per example."""
        return self.x.shape[1]

    @property
    def step(self) -> Tensor:
        """How many times patching adds each entry's decoder row [n]."""
        return self.scaled(self.change, self.row)

    def moves(self) -> Moving:
        """The nodes that move between the two runs.

        Nothing moves where the prompts of a pair begin alike, nor does a feature with the same value in both
        runs. A change of the activation below rounding, as different kernels cause it, does not count. In half
        precision every change that the type can hold counts, since real changes are as small there.
        """
        finest = min(torch.finfo(self.x.dtype).eps, torch.finfo(torch.float32).eps)
        bound = ROUNDING * finest * self.x.to(self.x_change.dtype).norm(dim=-1)  # a norm easily overflows float16
        errors = self.error_change.norm(dim=-1) > bound
        positions = errors | (self.x_change.norm(dim=-1) > bound)
        return Moving((self.change != 0) & positions.flatten()[self.row], errors)

    def scaled(self, amount: Tensor, row: Tensor) -> Tensor:
        """Amounts of features at positions `row`, in decoder rows; or gradients there, as those at features."""
        return amount if self.scale is None else amount * self.scale[row]


@dataclass(frozen=True, eq=False)
class States:
    """The clean and patched runs of a batch, decomposed by the dictionaries."""

    batch: Batch
    sites: Mapping[Site, SiteState]
    streams: Mapping[Site, Tensor]
    """The clean activations at all residual sites, spliced or not, where partial forward passes start."""
    objective: Objective
    metric_clean: Tensor
    metric_patched: Tensor | None
    """m of the corrupted (or noised) prompts [example]; None without pairs."""


def fitting_batch(
    spliced: SplicedModel, task: Task, batch_size: int | None, most: int = 16, gradients: bool = True
) -> int:
    """The given batch size, or one of at most `most` whose passes (backward ones too) fit into a fixed memory."""
    if batch_size is None:
        return rows_at_once(spliced, task.longest, most, gradients)
    check_number("batch_size", batch_size, BATCHES)
    return batch_size


def states_of(
    spliced: SplicedModel,
    task: Task,
    batch: Batch,
    baseline: Baseline = "paired",
    means: Means | None = None,
) -> States:
    """Run a batch and encode it at every spliced site."""
    batch = batch.to(spliced.device).narrowed(task.F)
    streams = [resid(layer) for layer in range(-1, spliced.architecture.n_layers)]
    logits, clean = spliced.record(batch.clean, spliced.with_reads({*spliced.sites, *streams}))
    check_finite(logits, clean)
    objective = Objective.of(task, batch, logits)
    run = _patched_run(spliced, task, batch, baseline)
    means_at = None if means is None else means.values(task, batch)
    patched_at = _baseline(spliced, baseline, None if run is None else run.seen, means_at)
    return States(
        batch=batch,
        sites={
            site: _site_state(dictionary, clean[site], clean[spliced.read_site(site)], patched_at(site), batch)
            for site, dictionary in spliced.dictionaries.items()
        },
        streams={site: clean[site] for site in streams},
        objective=objective,
        metric_clean=objective(logits),
        metric_patched=None if run is None else objective(run.logits),
    )


class _Run(NamedTuple):
    """The logits and activations of a run."""

    logits: Tensor
    seen: Mapping[Site, Tensor]


def _patched_run(spliced: SplicedModel, task: Task, batch: Batch, baseline: Baseline) -> _Run | None:
    """The second run besides the clean one: with noise, or of the corrupted prompts; None if there is none."""
    noise = Noise() if baseline == "noise" else baseline
    if isinstance(noise, Noise):
        run = _noised(spliced, task, batch, noise)
    elif batch.corrupted is not None:
        run = _Run(*spliced.record(batch.corrupted, spliced.with_reads(spliced.sites)))
    else:
        return None
    check_finite(*run)
    return run


def _noised(spliced: SplicedModel, task: Task, batch: Batch, noise: Noise) -> _Run:
    """The run of the clean prompts with noise on their embeddings."""
    seen: dict[Site, Tensor] = {}

    def add(site: Site, x: Tensor) -> Tensor:
        seen[site] = x + noise.of(task, batch, x) if site == EMBED else x
        return seen[site]

    with torch.no_grad():
        logits = spliced.run(batch.clean, add, sites=spliced.with_reads({EMBED, *spliced.sites}), answers_only=True)
    return _Run(logits, seen)


def _baseline(
    spliced: SplicedModel,
    baseline: Baseline,
    patched: Mapping[Site, Tensor] | None,
    means: Callable[[Site], Patched] | None,
) -> Callable[[Site], Patched]:
    """site -> the patched values there."""
    if baseline == "zero":
        return lambda site: patched_by_zero(spliced, site)
    if baseline == "mean" and means is not None:
        return means
    assert patched is not None  # noise is patched in from the noised run, like pairs from the corrupted run
    return lambda site: patched_by_run(spliced, site, patched)


def _site_state(dictionary: Dictionary, x: Tensor, read: Tensor, patched: Patched, batch: Batch) -> SiteState:
    """The state of a site with only active and changing features; dense features exist for a few rows at a time."""
    real = (batch.clean.mask > 0).flatten()
    dtype = precision(x.dtype)
    reads = read.flatten(0, 1).to(dtype)

    # what all nodes of the site add to x when they take their patched values; padding is not patched
    clean_x = written(dictionary, x.flatten(0, 1).to(dtype), reads)
    patched_x = patched.x_at(dictionary, torch.arange(len(reads), device=x.device), reads).to(dtype)
    x_change = ((patched_x - clean_x) * real[:, None]).view(x.shape)

    size = max(1, DENSE_NUMBERS // max(1, dictionary.n_features))
    parts = [_entries(dictionary, reads, patched, rows) for rows in real.nonzero()[:, 0].split(size)]
    entries = _Entries(*(torch.cat(columns) for columns in zip(*parts, strict=True)))
    statistics = dictionary.statistics(reads)
    scale = None if statistics is None else statistics.scale[:, 0]
    state = SiteState(x, read, x_change, x_change, *entries, scale)

    # x = decode(f) + error in both runs, and decode is affine, so the error's change is what features leave over
    explained = dictionary.write(state.step, state.row, state.feature, len(reads))
    return replace(state, error_change=x_change - explained.view(x.shape))


class _Entries(NamedTuple):
    """The features [n] that are active or change, as the columns of `SiteState`."""

    row: Tensor
    feature: Tensor
    value: Tensor
    change: Tensor
    active: Tensor


def _entries(dictionary: Dictionary, reads: Tensor, patched: Patched, rows: Tensor) -> _Entries:
    """The features at some rows that are active or change."""
    if patched.features is None and patched.read is not None:
        features, change = _two_runs(dictionary, reads[rows], patched.read.flatten(0, 1)[rows].to(reads.dtype))
    else:
        features = dictionary.encode(reads[rows])
        change = patched.features_at(dictionary, rows) - features
    active = dictionary.is_active(features)
    at, feature = ((change != 0) | active).nonzero(as_tuple=True)
    return _Entries(rows[at], feature, features[at, feature], change[at, feature], active[at, feature])


def _two_runs(dictionary: Dictionary, clean: Tensor, patched: Tensor) -> tuple[Tensor, Tensor]:
    """(clean features, their change) [n, n_features], encoded only once for rows that both runs read alike.

    Tokens before the first difference of two prompts are the same in both runs.
    """
    differs = (clean != patched).any(-1)
    encoded = dictionary.encode(torch.cat([clean, patched[differs]]))
    features = encoded[: len(clean)]
    change = torch.zeros_like(features)
    change[differs] = encoded[len(clean) :] - features[differs]
    return features, change
