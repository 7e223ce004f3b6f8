"""What features do on a task's own prompts: their values on both sides of the pairs, place by place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.dictionaries.decomposition import precision
from featcircuits.model.sites import Site
from featcircuits.progress import Progress, silent
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.tasks.task import Batch, Task

ROWS = 16
"""Examples of one forward, whose values are dense for one site at a time [example, place, feature]."""
NUMBERS = 1 << 22


class TaskValues(NamedTuple):
    """Of one site's features [place, n]: means over examples of the sum over the tokens of a place."""

    clean: Tensor
    corrupted: Tensor | None
    """None where some examples have no corrupted prompt."""
    change: Tensor | None
    """The mean size of an example's change: pairs of both directions do not cancel."""


@torch.no_grad()
def task_values(
    spliced: SplicedModel, task: Task, chosen: Mapping[Site, Tensor], progress: Progress = silent
) -> dict[Site, TaskValues]:
    """Values of the chosen features of each site at the task's places (`Task.places`)."""
    count, paired = task.count_batches(ROWS), task.paired
    sums = {site: torch.zeros(3, len(task.places), len(ids), dtype=torch.float64) for site, ids in chosen.items()}
    for batch in progress(task.batches(ROWS), "task", count):
        sides = [batch.clean, batch.corrupted] if paired else [batch.clean]
        seen = [spliced.record(tokens, spliced.with_reads(chosen))[1] for tokens in sides if tokens is not None]
        for site, ids in chosen.items():
            values = [_values(spliced, site, ids, batch, one, len(task.places)) for one in seen]
            change = [(values[1] - values[0]).abs()] if paired else []
            for total, part in zip(sums[site], (*values, *change), strict=False):
                total += part.double().sum(0).cpu()
    means = {site: three / len(task) for site, three in sums.items()}
    return {site: TaskValues(*three) if paired else TaskValues(three[0], None, None) for site, three in means.items()}


def _values(
    spliced: SplicedModel, site: Site, ids: Tensor, batch: Batch, seen: Mapping[Site, Tensor], n_places: int
) -> Tensor:
    """[example, place, n]: of one side's activations."""
    dictionary, read = spliced.dictionaries[site], seen[spliced.read_site(site)].flatten(0, 1)
    real = (batch.places >= 0).flatten().to(read.device)
    rows = torch.arange(len(batch.places)).repeat_interleave(batch.places.shape[1])
    where = (rows * n_places + batch.places.flatten()).to(read.device)[real]
    reads = read[real].to(precision(read.dtype))
    total = reads.new_zeros(len(batch.places) * n_places, len(ids))
    size = max(1, NUMBERS // max(1, dictionary.n_features))
    for some, at in zip(reads.split(size), where.split(size), strict=True):
        total.index_add_(0, at, dictionary.encode(some)[:, ids])
    return total.view(len(batch.places), n_places, len(ids))
