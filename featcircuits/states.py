"""States of a batch at every site: what patching would change, feature by feature.

At a site the clean activation is `x = decode(f) + error`. Patching moves each feature by
`change` and the error by `error_change`; decode being affine, the activation moves by the sum of
`change * decoder row` and `error_change`. Features that neither state activates cannot have an
effect and are never stored: dense [example, position, feature] tensors live for one site at a time.

A transcoder's features are read at the MLP's input. What goes past them, the bypass, belongs to no
node: it is a wire, on which the nodes before the MLP reach those after it, and it is never patched.
Where a dictionary normalises its input, decoder rows are multiplied by the clean run's `scale`, and
what another scale or shift would change belongs to the error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.corruption import Noise
from featcircuits.dictionaries import Dictionary
from featcircuits.errors import InputError
from featcircuits.metrics import Answers, mean_slope, metric_named
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
    toward: Tensor | None = None
    """Logits of the patched run: then m's gradient is its mean on the straight line to them."""

    def __call__(self, logits: Tensor) -> Tensor:
        assert self.answers.reference is not None
        assert logits.shape == self.answers.reference.shape, "answers count other logits than the run computed"
        wide, metric = logits.to(precision(logits.dtype)), metric_named(self.metric)
        if self.toward is None:
            return -metric(wide, self.answers)
        start = wide.detach()
        slope = mean_slope(metric, self.answers, start, self.toward.to(wide.dtype))
        return -metric(start, self.answers) - ((wide - start) * slope).sum(-1)

    def select(self, rows: Tensor) -> Objective:
        """For a run whose row r repeats example `rows[r]`."""
        return Objective(self.metric, self.answers.select(rows), None if self.toward is None else self.toward[rows])


@dataclass(frozen=True, eq=False)
class SiteState:
    """One site of one batch.

    `x`: clean activation, `x_change`: what patching all the site's nodes adds to it, `error_change`:
    what of that no feature explains; [example, slot, width]. `read`: what the dictionary encodes in
    the clean run [example, slot, read_width]. The n feature entries are sorted by `row` = example *
    slots + slot, each with its `feature`, its clean `value`, the `change` that patching brings, and
    whether it is `active` in the clean run. `scale` [example * slots]: of decoder rows; None for 1.
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
        return self.x.shape[1]

    @property
    def step(self) -> Tensor:
        """[n]: how many decoder rows patching adds."""
        return self.scaled(self.change, self.row)

    def scaled(self, amount: Tensor, row: Tensor) -> Tensor:
        """Amounts of features at positions `row`, in decoder rows; or gradients there, as those at features."""
        return amount if self.scale is None else amount * self.scale[row]


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
    """A site's mean over prompts, place by place: features [place, n_features], x [place, width] less the bypass.

    Decode being affine, the mean error is x - decode(features) of these. `scale` [place, 1]: the mean
    scale of decoder rows, where the dictionary has one.
    """

    features: Tensor
    x: Tensor
    scale: Tensor | None


class Patched(NamedTuple):
    """What patching puts in at the nodes of a site.

    `x` [example, slot, width]: all of them together, None for nothing (the decoder's bias). Features
    are those encoded from `read`, unless given. `scale` [example, slot, 1]: of decoder rows.
    """

    x: Tensor | None
    read: Tensor | None = None
    features: Callable[[Tensor], Tensor] | None = None
    """rows (example * slots + slot) [n] -> features, broadcastable to [n, n_features]"""
    scale: Tensor | None = None

    def x_at(self, dictionary: Dictionary, rows: Tensor, clean: Tensor) -> Tensor:
        """[n, width] at some rows; the bias is in the units of what is read there, `clean` [..., n, read_width]."""
        if self.x is not None:
            return self.x.flatten(0, 1)[rows]
        none = clean.new_zeros(1, dictionary.n_features)
        return dictionary.decode(none, dictionary.statistics(clean))

    def features_at(self, dictionary: Dictionary, rows: Tensor) -> Tensor:
        """Broadcastable to [n, n_features]."""
        if self.features is not None:
            return self.features(rows)
        assert self.read is not None
        read = self.read.flatten(0, 1)[rows]
        return dictionary.encode(read.to(precision(read.dtype)))


DENSE_NUMBERS = 1 << 23
"""How many dense features may be held at once."""


def fitting_batch(spliced: SplicedModel, task: Task, batch_size: int | None) -> int:
    """The batch size that was asked for, or one whose backward pass fits a fixed memory."""
    return spliced.rows_at_once(task.longest, most=16, gradients=True) if batch_size is None else batch_size


def precision(dtype: torch.dtype) -> torch.dtype:
    """The dtype that dictionaries and effects are computed in: never below float32."""
    return torch.promote_types(dtype, torch.float32)


def encode(dictionary: Dictionary, x: Tensor, read: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(features, error) of an activation, in the dictionary's precision; `read`: what it encodes where not x."""
    x = x.to(precision(x.dtype))
    read = x if read is None else read.to(x.dtype)
    features = dictionary.encode(read)
    return features, written(dictionary, x, read) - dictionary.decode(features, dictionary.statistics(read))


class Moved(NamedTuple):
    """How a site's nodes move from one activation to another, in the units of the first."""

    steps: Tensor
    """[..., n_features]: how many decoder rows each feature adds"""
    error: Tensor
    """[..., width]"""


def moved_between(dictionary: Dictionary, x: Tensor, read: Tensor, x2: Tensor, read2: Tensor) -> Moved:
    """From activation `x`, where the dictionary reads `read`, to `x2` and `read2`."""
    wide = precision(x.dtype)
    x, read, x2, read2 = (tensor.to(wide) for tensor in (x, read, x2, read2))
    steps, statistics = dictionary.encode(read2) - dictionary.encode(read), dictionary.statistics(read)
    steps = steps if statistics is None else steps * statistics.scale
    change = written(dictionary, x2, read2) - written(dictionary, x, read)
    return Moved(steps, change - dictionary.decode_change(steps))


def rewired(dictionary: Dictionary, x: Tensor, read: Tensor, read2: Tensor) -> Tensor:
    """x with its nodes held and the bypass reading `read2` in place of `read`; x itself without a bypass."""
    past = dictionary.bypass((read2 - read).to(precision(x.dtype))) if dictionary.has_bypass else None
    return x if past is None else x + past.to(x.dtype)


def written(dictionary: Dictionary, x: Tensor, read: Tensor) -> Tensor:
    """What the nodes of a site make of x: all but the bypass."""
    past = dictionary.bypass(read) if dictionary.has_bypass else None
    return x if past is None else x - past


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
    logits, clean = spliced.record(batch.clean, spliced.with_reads({*spliced.sites, *streams}))
    check_finite(logits, clean)
    patched_logits, patched = None, None
    noise = Noise() if baseline == "noise" else baseline
    if isinstance(noise, Noise):
        patched_logits, patched = _noised(spliced, task, batch, noise)
    elif batch.corrupted is not None:
        patched_logits, patched = spliced.record(batch.corrupted, spliced.with_reads(spliced.sites))
    if patched_logits is not None and patched is not None:
        check_finite(patched_logits, patched)
    answers = Answers(batch.answers.clean, batch.answers.corrupted, logits.float())
    objective = Objective(task.metric, answers)
    baseline_at = _baseline(spliced, batch, baseline, patched, means)
    return States(
        batch=batch,
        sites={
            site: _site_state(dictionary, clean[site], clean[spliced.read_site(site)], baseline_at(site), batch)
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
        logits = spliced.run(batch.clean, add, sites=spliced.with_reads({EMBED, *spliced.sites}), answers_only=True)
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
        return lambda site: patched_by_zero(spliced, site)
    if baseline == "mean" and means is not None:
        return lambda site: patched_by_mean(means[site], batch)
    assert patched is not None  # noise is patched in from the noised run as pairs are from the corrupted one
    return lambda site: patched_by_run(spliced, site, patched)


def patched_by_zero(spliced: SplicedModel, site: Site) -> Patched:
    """No features and no error: the site emits its decoder's bias."""
    none = torch.zeros(
        1, spliced.dictionaries[site].n_features, device=spliced.device, dtype=precision(spliced.model.dtype)
    )
    return Patched(None, features=lambda rows: none)


def patched_by_mean(mean: MeanState, batch: Batch) -> Patched:
    """The mean at the same place."""
    places = batch.places.clamp(min=0)
    scale = None if mean.scale is None else mean.scale[places]
    return Patched(mean.x[places], features=lambda rows: mean.features[places.flatten()[rows]], scale=scale)


def patched_by_run(spliced: SplicedModel, site: Site, seen: Mapping[Site, Tensor]) -> Patched:
    """What another run holds at the site, and where its dictionary reads."""
    dictionary = spliced.dictionaries[site]
    x, read = (seen[at].to(precision(seen[at].dtype)) for at in (site, spliced.read_site(site)))
    statistics = dictionary.statistics(read)
    return Patched(written(dictionary, x, read), read, scale=None if statistics is None else statistics.scale)


def _site_state(dictionary: Dictionary, x: Tensor, read: Tensor, patched: Patched, batch: Batch) -> SiteState:
    """Only active and changing features are kept; dense features exist for a few rows at a time."""
    real = (batch.clean.mask > 0).flatten()
    wide = precision(x.dtype)
    reads = read.flatten(0, 1).to(wide)
    before = written(dictionary, x.flatten(0, 1).to(wide), reads)
    after = patched.x_at(dictionary, torch.arange(len(reads), device=x.device), reads).to(wide)
    size = max(1, DENSE_NUMBERS // max(1, dictionary.n_features))
    parts = [_entries(dictionary, reads, patched, rows) for rows in real.nonzero()[:, 0].split(size)]
    row, feature, value, change, active = (torch.cat(columns) for columns in zip(*parts, strict=True))
    x_change = (after - before) * real[:, None]
    statistics = dictionary.statistics(reads)
    scale = None if statistics is None else statistics.scale[:, 0]
    state = SiteState(x, read, x_change.view(x.shape), x_change, row, feature, value, change, active, scale)
    # x = decode(f) + error on both sides, and decode is affine
    error_change = x_change - dictionary.write(state.step, row, feature, len(before))
    return replace(state, error_change=error_change.view(x.shape))


def _entries(dictionary: Dictionary, reads: Tensor, patched: Patched, rows: Tensor) -> tuple[Tensor, ...]:
    """(row, feature, value, change, active) of the features that are active or change at some rows."""
    if patched.features is None and patched.read is not None:
        # tokens before the first difference are the same in both runs, and need one encoding
        before, after = reads[rows], patched.read.flatten(0, 1)[rows].to(reads.dtype)
        moved = (before != after).any(-1)
        both = dictionary.encode(torch.cat([before, after[moved]]))
        features = both[: len(rows)]
        change = torch.zeros_like(features)
        change[moved] = both[len(rows) :] - features[moved]
    else:
        features = dictionary.encode(reads[rows])
        change = patched.features_at(dictionary, rows) - features
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
        logits, seen = spliced.record(batch.corrupted or batch.clean, spliced.with_reads(spliced.sites))
        check_finite(logits, seen)
        place, real = batch.places.flatten(), batch.places.flatten() >= 0
        counts += torch.bincount(place[real], minlength=n_places)
        for site, dictionary in spliced.dictionaries.items():
            read = seen[spliced.read_site(site)].flatten(0, 1)[real]
            read = read.to(precision(read.dtype))
            x = written(dictionary, seen[site].flatten(0, 1)[real].to(read.dtype), read)
            if site not in totals:
                totals[site] = _no_state(dictionary, x, n_places)
            _add_states(totals[site], dictionary, x, read, place[real])
    counts = counts.clamp(min=1)[:, None]
    return {site: MeanState(*(None if t is None else t / counts for t in total)) for site, total in totals.items()}  # type: ignore[arg-type]


def _no_state(dictionary: Dictionary, x: Tensor, n_places: int) -> MeanState:
    scaled = dictionary.statistics(x[:0].new_zeros(1, dictionary.read_width)) is not None
    return MeanState(
        x.new_zeros(n_places, dictionary.n_features),
        x.new_zeros(n_places, x.shape[1]),
        x.new_zeros(n_places, 1) if scaled else None,
    )


def _add_states(total: MeanState, dictionary: Dictionary, x: Tensor, read: Tensor, place: Tensor) -> None:
    """Dense features exist for a few rows at a time."""
    size = max(1, DENSE_NUMBERS // max(1, dictionary.n_features))
    for some, at in zip(read.split(size), place.split(size), strict=True):
        total.features.index_add_(0, at, dictionary.encode(some))
    total.x.index_add_(0, place, x)
    statistics = dictionary.statistics(read)
    if total.scale is not None and statistics is not None:
        total.scale.index_add_(0, place, statistics.scale)
