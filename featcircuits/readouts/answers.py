"""Whether a run answers right, and metrics that see one side of the answers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from featcircuits.dictionaries.decomposition import wide
from featcircuits.errors import InputError
from featcircuits.tasks.behaviour import right_answers
from featcircuits.tasks.examples import Example
from featcircuits.tasks.metrics import Answers, Metric
from featcircuits.tasks.task import Task


def answered(logits: Tensor, answers: Answers) -> Tensor:
    """Whether a right answer's logit is above every wrong one's [example]; without wrong answers, above all others."""
    logits = wide(logits)
    against = right_answers(logits, answers.clean, answers.corrupted)
    likeliest = (logits.argmax(-1, keepdim=True) == answers.clean).any(-1)
    named = (answers.corrupted >= 0).any(-1) if answers.corrupted.shape[1] else torch.zeros_like(likeliest)
    return torch.where(named, against, likeliest)


@dataclass(frozen=True)
class Accuracy(Metric):
    """1 for a right answer and 0 for a wrong one; it has no gradient."""

    def __call__(self, logits: Tensor, answers: Answers) -> Tensor:
        """F of each row [row]."""
        return answered(logits, answers).to(logits.dtype)


@dataclass(frozen=True)
class RightLogit(Metric):
    """The mean logit of the right answers, less the mean of all logits (which changes no probability)."""

    def __call__(self, logits: Tensor, answers: Answers) -> Tensor:
        """F of each row [row]."""
        return _mean_logit(logits, answers.clean)


@dataclass(frozen=True)
class WrongLogit(Metric):
    """The mean logit of the wrong answers, less the mean of all logits."""

    def check(self, example: Example) -> None:
        """Raise `InputError` for an example without a wrong answer."""
        if not example.corrupted_answers:
            raise InputError("there is no wrong answer, which the split into promoted and suppressed needs; give one")

    def __call__(self, logits: Tensor, answers: Answers) -> Tensor:
        """F of each row [row]."""
        return _mean_logit(logits, answers.corrupted)


def _mean_logit(logits: Tensor, ids: Tensor) -> Tensor:
    picked = logits.gather(-1, ids.clamp(min=0)).masked_fill(ids < 0, 0.0)
    return picked.sum(-1) / (ids >= 0).sum(-1) - logits.mean(-1)


def check_judged(task: Task) -> None:
    """Raise `InputError` for a task whose examples cannot be right or wrong."""
    if not task.F.judges_answers:
        raise InputError(f"{task.name}: metric {task.F.name!r} reads no answers, so nothing is right; give another one")
