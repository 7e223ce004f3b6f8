"""How often the model shows a behaviour on its task files."""

from dataclasses import dataclass

import torch

from featcircuits.splicing.spliced import SplicedModel
from featcircuits.tasks.task import Task


@dataclass(frozen=True)
class Accuracy:
    """Shares of pairs with the right sign of the metric, and the metric's means."""

    clean: float
    corrupted: float
    both: float
    metric_clean: float
    metric_corrupted: float


@torch.no_grad()
def accuracy(spliced: SplicedModel, task: Task) -> Accuracy:
    """The metric is positive where a prompt is answered rightly, negative for the other answer."""
    metric = task.F
    clean, corrupted = [], []
    for batch in task.batches(100):
        assert batch.corrupted is not None
        clean.append(metric(spliced.run(batch.clean, answers_only=True), batch.answers))
        corrupted.append(metric(spliced.run(batch.corrupted, answers_only=True), batch.answers))
    on_clean, on_corrupted = torch.cat(clean), torch.cat(corrupted)
    return Accuracy(
        clean=(on_clean > 0).float().mean().item(),
        corrupted=(on_corrupted < 0).float().mean().item(),
        both=((on_clean > 0) & (on_corrupted < 0)).float().mean().item(),
        metric_clean=on_clean.mean().item(),
        metric_corrupted=on_corrupted.mean().item(),
    )
