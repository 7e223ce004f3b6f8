"""States of a batch at every site: what patching would change, feature by feature.

At a site the clean activation is `x = decode(f) + error`. Patching moves each feature by
`change` and the error by `error_change`; decode being affine, the activation moves by the sum of
`change * decoder row` and `error_change`. Features that neither state activates cannot have an
effect and are never stored: dense [example, position, feature] tensors live for one site at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.corruption import Noise
from featcircuits.dictionaries import Dictionary
from featcircuits.errors import InputError
from featcircuits.metrics import Answers, metric_named
from featcircuits.sites import EMBED, Site
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
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return -metric_named(self.metric)(wide, self.answers)

    def select(self, rows: Tensor) -> Objective:
        """For a run whose row r repeats example `rows[r]`."""
        return Objective(self.metric, self.answers.select(rows))


@dataclass(frozen=True, eq=False)
class SiteState:
    """One site of one batch.

    `x`: clean activation, `error_change`: [example, slot, width]. The n feature entries are sorted
    by `row` = example * slots + slot, each with its `feature`, its clean `value`, the `change`
    that patching brings, and whether it is `active` in the clean run.
    """

    x: Tensor
    error_change: Tensor
    row: Tensor
    feature: Tensor
    value: Tensor
    change: Tensor
    active: Tensor

    @property
    def slots(self) -> int:
        return self.x.shape[1]

    def change_in_x(self, dictionary: Dictionary) -> Tensor:
        """[example, slot, width]: patched minus clean activation."""
        total = self.error_change.flatten(0, 1).clone()
        written = dictionary.decoder_rows(self.feature) * self.change[:, None]
        total.index_add_(0, self.row, written.to(total.dtype))
        return total.view_as(self.x)


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
    """A site's mean over prompts, place by place: features [place, n_features], error [place, width]."""

    features: Tensor
    error: Tensor


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
    extra: Iterable[Site] = (),
) -> States:
    """Run a batch and encode it at every spliced site; `extra` sites are recorded as streams."""
    batch = batch.to(spliced.device)
    wanted = sorted({*spliced.sites, *extra})
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
        streams={site: clean[site] for site in extra},
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
) -> Callable[[Site], tuple[Tensor, Tensor]]:
    """site -> (features, error) that patching puts in, broadcastable to the batch."""

    def paired(site: Site) -> tuple[Tensor, Tensor]:
        assert patched is not None
        return encode(spliced.dictionaries[site], patched[site])

    def zero(site: Site) -> tuple[Tensor, Tensor]:
        dictionary = spliced.dictionaries[site]
        dtype = precision(spliced.model.dtype)
        return (
            torch.zeros(1, 1, dictionary.n_features, device=spliced.device, dtype=dtype),
            torch.zeros(1, 1, dictionary.width, device=spliced.device, dtype=dtype),
        )

    def mean(site: Site) -> tuple[Tensor, Tensor]:
        assert means is not None
        places = batch.places.clamp(min=0)
        return means[site].features[places], means[site].error[places]

    # noise is patched in from the noised run as pairs are from the corrupted one
    return {"zero": zero, "mean": mean}.get(str(baseline), paired)


def _site_state(dictionary: Dictionary, x: Tensor, baseline: tuple[Tensor, Tensor], batch: Batch) -> SiteState:
    real = (batch.clean.mask > 0)[..., None]
    features, error = encode(dictionary, x)
    change = (baseline[0] - features) * real
    active = dictionary.is_active(features) & real
    row, feature = ((change != 0) | active).flatten(0, 1).nonzero(as_tuple=True)
    flat = [tensor.flatten(0, 1)[row, feature] for tensor in (features, change, active)]
    return SiteState(x, (baseline[1] - error) * real, row, feature, *flat)


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
            parts = encode(dictionary, seen[site])
            sums = [_sum_by_place(part.flatten(0, 1)[real], place[real], n_places) for part in parts]
            totals[site] = MeanState(*sums) if site not in totals else _add(totals[site], sums)
    counts = counts.clamp(min=1)[:, None]
    return {site: MeanState(t.features / counts, t.error / counts) for site, t in totals.items()}


def _sum_by_place(values: Tensor, place: Tensor, n_places: int) -> Tensor:
    sums = torch.zeros(n_places, values.shape[-1], device=values.device, dtype=values.dtype)
    return sums.index_add_(0, place, values)


def _add(total: MeanState, sums: list[Tensor]) -> MeanState:
    return MeanState(total.features + sums[0], total.error + sums[1])
