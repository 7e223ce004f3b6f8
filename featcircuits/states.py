"""States of a batch at every site: what patching would change, feature by feature.

At a site the clean activation is `x = decode(f) + error`. Patching moves each feature by
`change` and the error by `error_change`; decode being affine, the activation moves by the sum of
`change * decoder row` and `error_change`. Features that neither state activates cannot have an
effect and are never stored: dense [example, position, feature] tensors live for one site at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.corruption import Noise
from featcircuits.dictionaries import Dictionary
from featcircuits.errors import InputError
from featcircuits.metrics import Answers, metric_named
from featcircuits.sites import EMBED, Site, resid
from featcircuits.splice import SplicedModel
from featcircuits.tasks import Batch, Task

BASELINES = ("paired", "zero", "mean", "noise")
Baseline = str | Noise
"""What patching puts in: a name, or noise with settings of its own."""


class Objective(NamedTuple):
    """m = -F for the rows of a run: what effects are changes of."""

    metric: str
    answers: Answers

    def __call__(self, logits: Tensor) -> Tensor:
        assert self.answers.reference is not None
        assert logits.shape == self.answers.reference.shape, "answers count other logits than the run computed"
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return -metric_named(self.metric)(wide, self.answers)

    def select(self, rows: Tensor) -> Objective:
        """For a run whose row r repeats example `rows[r]`."""
        return Objective(self.metric, self.answers.select(rows))


@dataclass(frozen=True, eq=False)
class SiteState:
    """One site of one batch.

    `x`: clean activation, `x_change`: patched less clean activation, `error_change`: what of it no
    feature explains; [example, slot, width]. The n feature entries are sorted by `row` = example *
    slots + slot, each with its `feature`, its clean `value`, the `change` that patching brings, and
    whether it is `active` in the clean run.
    """

    x: Tensor
    x_change: Tensor
    error_change: Tensor
    row: Tensor
    feature: Tensor
    value: Tensor
    change: Tensor
    active: Tensor

    @property
    def slots(self) -> int:
        return self.x.shape[1]


@dataclass(frozen=True, eq=False)
class States:
    """A batch, run clean and patched, seen through the dictionaries."""

    batch: Batch
    sites: Mapping[Site, SiteState]
    streams: Mapping[Site, Tensor]
    """Clean activations at residual sites, spliced or not: where partial forwards start."""
    objective: Objective
    metric_clean: Tensor
    metric_patched: Tensor | None
    """m of the corrupted (or noised) prompts [example]; None without pairs."""


class MeanState(NamedTuple):
    """A site's mean over prompts, place by place: features [place, n_features], x [place, width].

    Decode being affine, the mean error is x - decode(features) of these.
    """

    features: Tensor
    x: Tensor


class Patched(NamedTuple):
    """What patching puts in at a site: x [example, slot, width], and features where they are not encode(x)."""

    x: Tensor
    features: Callable[[Tensor], Tensor] | None = None
    """rows (example * slots + slot) [n] -> features, broadcastable to [n, n_features]"""


DENSE_NUMBERS = 1 << 23
"""How many dense features may be held at once."""


def fitting_batch(spliced: SplicedModel, task: Task, batch_size: int | None) -> int:
    """The batch size that was asked for, or one whose backward pass fits a fixed memory."""
    return spliced.rows_at_once(task.longest, most=16, gradients=True) if batch_size is None else batch_size


def precision(dtype: torch.dtype) -> torch.dtype:
    """The dtype that dictionaries and effects are computed in: never below float32."""
    return torch.promote_types(dtype, torch.float32)


def encode(dictionary: Dictionary, x: Tensor) -> tuple[Tensor, Tensor]:
    """(features, error) of an activation, in the dictionary's precision."""
    x = x.to(precision(x.dtype))
    features = dictionary.encode(x)
    return features, x - dictionary.decode(features)


def states_of(
    spliced: SplicedModel,
    task: Task,
    batch: Batch,
    baseline: Baseline = "paired",
    means: Mapping[Site, MeanState] | None = None,
) -> States:
    """Run a batch and encode it at every spliced site."""
    batch = batch.to(spliced.device).narrowed(task.metric)
    streams = [resid(layer) for layer in range(-1, spliced.architecture.n_layers)]
    wanted = sorted({*spliced.sites, *streams})
    logits, clean = spliced.record(batch.clean, wanted)
    check_finite(logits, clean)
    patched_logits, patched = None, None
    noise = Noise() if baseline == "noise" else baseline
    if isinstance(noise, Noise):
        patched_logits, patched = _noised(spliced, task, batch, noise)
    elif batch.corrupted is not None:
        patched_logits, patched = spliced.record(batch.corrupted, spliced.sites)
    if patched_logits is not None and patched is not None:
        check_finite(patched_logits, patched)
    answers = Answers(batch.answers.clean, batch.answers.corrupted, logits.float())
    objective = Objective(task.metric, answers)
    baseline_at = _baseline(spliced, batch, baseline, patched, means)
    return States(
        batch=batch,
        sites={
            site: _site_state(dictionary, clean[site], baseline_at(site), batch)
            for site, dictionary in spliced.dictionaries.items()
        },
        streams={site: clean[site] for site in streams},
        objective=objective,
        metric_clean=objective(logits),
        metric_patched=None if patched_logits is None else objective(patched_logits),
    )


def _noised(spliced: SplicedModel, task: Task, batch: Batch, noise: Noise) -> tuple[Tensor, dict[Site, Tensor]]:
    """Logits and activations of the clean prompts with noise on their embeddings."""
    seen: dict[Site, Tensor] = {}

    def add(site: Site, x: Tensor) -> Tensor:
        seen[site] = x + noise.of(task, batch, x) if site == EMBED else x
        return seen[site]

    with torch.no_grad():
        logits = spliced.run(batch.clean, add, sites=sorted({EMBED, *spliced.sites}), answers_only=True)
    return logits, seen


def _baseline(
    spliced: SplicedModel,
    batch: Batch,
    baseline: Baseline,
    patched: Mapping[Site, Tensor] | None,
    means: Mapping[Site, MeanState] | None,
) -> Callable[[Site], Patched]:
    """site -> what patching puts in."""
    if baseline == "zero":
        return lambda site: patched_by_zero(spliced, site, batch)
    if baseline == "mean" and means is not None:
        return lambda site: patched_by_mean(means[site], batch)
    assert patched is not None  # noise is patched in from the noised run as pairs are from the corrupted one
    return lambda site: Patched(patched[site])


def patched_by_zero(spliced: SplicedModel, site: Site, batch: Batch) -> Patched:
    """No features and no error: the site emits its decoder's bias."""
    dictionary = spliced.dictionaries[site]
    none = torch.zeros(1, dictionary.n_features, device=spliced.device, dtype=precision(spliced.model.dtype))
    return Patched(dictionary.decode(none).expand(*batch.places.shape, -1), lambda rows: none)


def patched_by_mean(mean: MeanState, batch: Batch) -> Patched:
    """The mean at the same place."""
    places = batch.places.clamp(min=0)
    return Patched(mean.x[places], lambda rows: mean.features[places.flatten()[rows]])


def _site_state(dictionary: Dictionary, x: Tensor, patched: Patched, batch: Batch) -> SiteState:
    """Only active and changing features are kept; dense features exist for a few rows at a time."""
    real = (batch.clean.mask > 0).flatten()
    wide = precision(x.dtype)
    before, after = x.flatten(0, 1).to(wide), patched.x.flatten(0, 1).to(wide)
    size = max(1, DENSE_NUMBERS // max(1, dictionary.n_features))
    parts = [_entries(dictionary, before, after, patched.features, rows) for rows in real.nonzero()[:, 0].split(size)]
    row, feature, value, change, active = (torch.cat(columns) for columns in zip(*parts, strict=True))
    x_change = (after - before) * real[:, None]
    # x = decode(f) + error on both sides, and decode is affine
    error_change = x_change - dictionary.write(change, row, feature, len(before))
    return SiteState(x, x_change.view(x.shape), error_change.view(x.shape), row, feature, value, change, active)


def _entries(
    dictionary: Dictionary, before: Tensor, after: Tensor, patched: Callable[[Tensor], Tensor] | None, rows: Tensor
) -> tuple[Tensor, ...]:
    """(row, feature, value, change, active) of the features that are active or change at some rows."""
    if patched is None:
        # tokens before the first difference are the same in both runs, and need one encoding
        moved = (before[rows] != after[rows]).any(-1)
        both = dictionary.encode(torch.cat([before[rows], after[rows[moved]]]))
        features = both[: len(rows)]
        change = torch.zeros_like(features)
        change[moved] = both[len(rows) :] - features[moved]
    else:
        features = dictionary.encode(before[rows])
        change = patched(rows) - features
    active = dictionary.is_active(features)
    at, feature = ((change != 0) | active).nonzero(as_tuple=True)
    return rows[at], feature, features[at, feature], change[at, feature], active[at, feature]


def check_baseline(task: Task, baseline: Baseline) -> None:
    """Refuse an unknown baseline, one that needs pairs where there are none, or roles that are not there."""
    if isinstance(baseline, Noise):
        baseline.check(task)
        return
    if baseline not in BASELINES:
        raise InputError(f"unknown baseline {baseline!r}; known: {', '.join(BASELINES)}")
    if baseline == "paired" and not task.paired:
        raise InputError(
            f"{task.name}: baseline='paired' needs corrupted prompts; use baseline='zero', 'mean' or 'noise'"
        )


_NAN_REMEDY = (
    "check its weights and dtype (in float64, transformers' eager attention computes NaN behind left padding: "
    "use right padding or attn_implementation='sdpa')"
)


def check_finite(logits: Tensor, activations: Mapping[Site, Tensor]) -> None:
    """Refuse a model that computes NaN or infinity, naming the first site where it does."""
    for site, x in activations.items():
        if not torch.isfinite(x).all():
            raise InputError(f"the model's activation at {site} holds NaN or infinity; {_NAN_REMEDY}")
    if not torch.isfinite(logits).all():
        raise InputError(f"the model's logits hold NaN or infinity; {_NAN_REMEDY}")


def mean_states(spliced: SplicedModel, task: Task, batch_size: int) -> dict[Site, MeanState]:
    """Each site's mean feature and error at each place, over the reference prompts.

    Those are the corrupted prompts of a paired task (as Marks et al. ablate), the prompts
    themselves otherwise.
    """
    n_places = len(task.places)
    totals: dict[Site, MeanState] = {}
    counts = torch.zeros(n_places, device=spliced.device, dtype=torch.long)
    for batch in task.batches(batch_size):
        batch = batch.to(spliced.device)
        logits, seen = spliced.record(batch.corrupted or batch.clean, spliced.sites)
        check_finite(logits, seen)
        place, real = batch.places.flatten(), batch.places.flatten() >= 0
        counts += torch.bincount(place[real], minlength=n_places)
        for site, dictionary in spliced.dictionaries.items():
            x = seen[site].flatten(0, 1)[real].to(precision(seen[site].dtype))
            if site not in totals:
                totals[site] = MeanState(
                    x.new_zeros(n_places, dictionary.n_features), x.new_zeros(n_places, x.shape[1])
                )
            size = max(1, DENSE_NUMBERS // max(1, dictionary.n_features))
            for some, at in zip(x.split(size), place[real].split(size), strict=True):
                totals[site].features.index_add_(0, at, dictionary.encode(some))
                totals[site].x.index_add_(0, at, some)
    counts = counts.clamp(min=1)[:, None]
    return {site: MeanState(t.features / counts, t.x / counts) for site, t in totals.items()}
