"""Baselines: where patched values come from; ablations use the same values."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.dictionaries import Dictionary
from featcircuits.dictionaries.decomposition import of_nothing, precision, wide, written
from featcircuits.errors import InputError
from featcircuits.model.sites import Site
from featcircuits.splicing.finite import check_finite
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.tasks.alignment import ANYWHERE, Alignment
from featcircuits.tasks.corruption import Noise
from featcircuits.tasks.task import Batch, Task

BASELINES = ("paired", "zero", "mean", "noise")
Baseline = str | Noise
"""A baseline: a name, or noise with settings of its own."""


MEANS_ANYWHERE = (
    "The prompts have no places in common (their lengths differ, and most tokens are further from the end than any "
    "other prompt reaches), so one mean is taken over all tokens; name roles in the task, or use prompts of one length"
)


DENSE_NUMBERS = 1 << 23
"""The most dense features that are held at once."""


class MeanState(NamedTuple):
    """A site's means over prompts by place: features [place, n_features], and x without the bypass [place, width].

    Since decode is affine, the mean error is x - decode(features). `scale` [place, 1]: the mean
    scale of decoder rows, if the dictionary has one.
    """

    features: Tensor
    x: Tensor
    scale: Tensor | None


class Means(NamedTuple):
    """The means at every site, and the places at which they were taken."""

    sites: Mapping[Site, MeanState]
    alignment: Alignment

    def values(self, task: Task, batch: Batch) -> Callable[[Site], Patched]:
        """site -> the means at the places of a batch's tokens."""
        places = places_of(self.alignment, task, batch)
        return lambda site: patched_by_mean(self.sites[site], places)


def places_of(alignment: Alignment, task: Task, batch: Batch) -> Tensor:
    """The indices of an alignment's places [example, slot], on the batch's device; 0 at padding."""
    return alignment.places([task.examples[number] for number in batch.index.tolist()], batch.clean)


class Patched(NamedTuple):
    """The patched values of the nodes of a site.

    `x` [example, slot, width]: the activation with all of them, None for zeros (the decoder's bias). Features
    are those encoded from `read`, unless given. `scale` [example, slot, 1]: that of decoder rows.
    """

    x: Tensor | None
    read: Tensor | None = None
    features: Callable[[Tensor], Tensor] | None = None
    """rows (example * slots + slot) [n] -> features, broadcastable to [n, n_features]."""
    scale: Tensor | None = None

    def x_at(self, dictionary: Dictionary, rows: Tensor, clean: Tensor) -> Tensor:
        """x at some rows [n, width]; the bias is in the units of what is read there, `clean` [..., n, read_width]."""
        if self.x is not None:
            return self.x.flatten(0, 1)[rows]
        return of_nothing(dictionary, clean)

    def features_at(self, dictionary: Dictionary, rows: Tensor) -> Tensor:
        """The features at some rows, broadcastable to [n, n_features]."""
        if self.features is not None:
            return self.features(rows)
        assert self.read is not None
        read = self.read.flatten(0, 1)[rows]
        return dictionary.encode(wide(read))


def patched_by_zero(spliced: SplicedModel, site: Site) -> Patched:
    """Features and error are 0, so the site emits its decoder's bias."""
    none = torch.zeros(
        1, spliced.dictionaries[site].n_features, device=spliced.device, dtype=precision(spliced.model.dtype)
    )
    return Patched(None, features=lambda rows: none)


def patched_by_mean(mean: MeanState, places: Tensor) -> Patched:
    """The means at the same places; `places` [example, slot]."""
    scale = None if mean.scale is None else mean.scale[places]
    return Patched(mean.x[places], features=lambda rows: mean.features[places.flatten()[rows]], scale=scale)


def patched_by_run(spliced: SplicedModel, site: Site, seen: Mapping[Site, Tensor]) -> Patched:
    """The activations of another run at the site, and where its dictionary reads."""
    dictionary = spliced.dictionaries[site]
    x, read = (wide(seen[at]) for at in (site, spliced.read_site(site)))
    statistics = dictionary.statistics(read)
    return Patched(written(dictionary, x, read), read, scale=None if statistics is None else statistics.scale)


def check_known(baseline: Baseline) -> None:
    """Raise `InputError` for an unknown baseline."""
    if not isinstance(baseline, Noise) and baseline not in BASELINES:
        raise InputError(f"unknown baseline {baseline!r}; known: {', '.join(BASELINES)}")


def check_baseline(task: Task, baseline: Baseline) -> None:
    """Raise `InputError` for an unknown baseline, one whose pairs are missing, or noise on a missing role."""
    check_known(baseline)
    if isinstance(baseline, Noise):
        baseline.check(task)
        return
    if baseline == "paired" and not task.paired:
        raise InputError(
            f"{task.name}: baseline='paired' needs pairs, and these prompts have no corrupted ones; give "
            "baseline='zero', 'mean' or 'noise' (--baseline zero), or corrupted prompts"
        )


def mean_states(spliced: SplicedModel, task: Task, batch_size: int) -> Means:
    """Each site's mean feature and error at each place that the prompts have in common (`Task.common`).

    Means are taken over the reference prompts: the corrupted prompts of a task with pairs (as Marks et al. ablate),
    otherwise the prompts themselves. The places of a circuit do not matter.
    """
    alignment = Alignment.of(task.examples, task.common)
    if alignment.kind == ANYWHERE and task.layout is None:
        warnings.warn(f"{task.name}: {MEANS_ANYWHERE}", stacklevel=2)
    totals: dict[Site, MeanState] = {}
    counts = torch.zeros(alignment.n_places, device=spliced.device, dtype=torch.long)
    for batch in task.batches(batch_size):
        batch = batch.to(spliced.device)
        logits, seen = spliced.record(batch.corrupted or batch.clean, spliced.with_reads(spliced.sites))
        check_finite(logits, seen)
        place, real = places_of(alignment, task, batch).flatten(), (batch.clean.mask > 0).flatten()
        counts += torch.bincount(place[real], minlength=alignment.n_places)
        for site, dictionary in spliced.dictionaries.items():
            read = seen[spliced.read_site(site)].flatten(0, 1)[real]
            read = wide(read)
            x = written(dictionary, seen[site].flatten(0, 1)[real].to(read.dtype), read)
            if site not in totals:
                totals[site] = _no_state(dictionary, x, alignment.n_places)
            _add_states(totals[site], dictionary, x, read, place[real])
    counts = counts.clamp(min=1)[:, None]
    means = {site: MeanState(*(None if t is None else t / counts for t in total)) for site, total in totals.items()}  # type: ignore[arg-type]
    return Means(means, alignment)


def _no_state(dictionary: Dictionary, x: Tensor, n_places: int) -> MeanState:
    scaled = dictionary.statistics(x[:0].new_zeros(1, dictionary.read_width)) is not None
    return MeanState(
        x.new_zeros(n_places, dictionary.n_features),
        x.new_zeros(n_places, x.shape[1]),
        x.new_zeros(n_places, 1) if scaled else None,
    )


def _add_states(total: MeanState, dictionary: Dictionary, x: Tensor, read: Tensor, place: Tensor) -> None:
    """Add a batch to the sums; dense features exist for a few rows at a time."""
    size = max(1, DENSE_NUMBERS // max(1, dictionary.n_features))
    for some, at in zip(read.split(size), place.split(size), strict=True):
        total.features.index_add_(0, at, dictionary.encode(some))
    total.x.index_add_(0, place, x)
    statistics = dictionary.statistics(read)
    if total.scale is not None and statistics is not None:
        total.scale.index_add_(0, place, statistics.scale)
