"""What features do on a task's own prompts: their values on both sides of the pairs, place by place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.dictionaries.decomposition import precision
from featcircuits.model.sites import Site
from featcircuits.model.tokens import Tokens
from featcircuits.progress import Progress, silent
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.tasks.task import Batch, Task

ROWS = 64
NUMBERS = 1 << 22


class TaskValues(NamedTuple):
    """Of one site's features [place, n]: the mean over examples of the sum over the tokens of a place."""

    clean: Tensor
    corrupted: Tensor | None
    """None where some examples have no corrupted prompt."""


@torch.no_grad()
def task_values(
    spliced: SplicedModel, task: Task, chosen: Mapping[Site, Tensor], progress: Progress = silent
) -> dict[Site, TaskValues]:
    """Values of the chosen features of each site at the task's places (`Task.places`)."""
    count = task.count_batches(ROWS)
    sums = {site: torch.zeros(2, len(task.places), len(ids), dtype=torch.float64) for site, ids in chosen.items()}
    for batch in progress(task.batches(ROWS), "task", count):
        for side, tokens in enumerate((batch.clean, batch.corrupted)):
            if tokens is not None:
                _add(spliced, tokens, batch, chosen, {site: both[side] for site, both in sums.items()})
    return {site: TaskValues(both[0] / len(task), both[1] / len(task) if task.paired else None)
            for site, both in sums.items()}  # fmt: skip


def _add(
    spliced: SplicedModel, tokens: Tokens, batch: Batch, chosen: Mapping[Site, Tensor], sums: Mapping[Site, Tensor]
) -> None:
    _, seen = spliced.record(tokens, spliced.with_reads(chosen))
    real = (batch.places >= 0).flatten()
    places = batch.places.flatten()[real]
    for site, ids in chosen.items():
        dictionary, read = spliced.dictionaries[site], seen[spliced.read_site(site)].flatten(0, 1)
        reads = read[real.to(read.device)].to(precision(read.dtype))
        size = max(1, NUMBERS // max(1, dictionary.n_features))
        for some, where in zip(reads.split(size), places.split(size), strict=True):
            sums[site].index_add_(0, where, dictionary.encode(some)[:, ids].double().cpu())
