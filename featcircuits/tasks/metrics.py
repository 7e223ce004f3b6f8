"""Metrics: how strongly a run shows the behaviour, one number per example.

A metric F grows with the behaviour, for example F = logit(clean answer) - logit(corrupted answer).
Effects are changes of m = -F, so a node that carries the behaviour has a positive effect. (Marks et al. attribute
logit(corrupted) - logit(clean) and evaluate the opposite, which gives the same numbers.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from featcircuits.errors import InputError
from featcircuits.inputs.ranges import ranged
from featcircuits.inputs.variants import Variant
from featcircuits.tasks.table import METRICS

if TYPE_CHECKING:
    from featcircuits.tasks.examples import Example


@dataclass(frozen=True, eq=False)
class Answers:
    """The right and wrong answers of examples.

    `clean`, `corrupted`: token ids [example, set], padded with -1; `corrupted` may be empty.
    `reference`: the unedited model's logits [example, vocabulary] on the clean prompts.
    """

    clean: Tensor
    corrupted: Tensor
    reference: Tensor | None = None

    def select(self, rows: Tensor) -> Answers:
        """The answers of these rows."""
        reference = None if self.reference is None else self.reference[rows]
        return Answers(self.clean[rows], self.corrupted[rows], reference)


class Metric(Variant, ABC):
    """F, one number per row of logits [row, vocabulary]; a new one is a class and a row of `featcircuits.tasks.table`.

    It computes row by row, in the dtype of the logits, and gradients flow through it.
    """

    table = METRICS

    reads_answers_alone: ClassVar[bool] = False
    """Whether it reads no logits but those of the answers, so that runs compute no others."""
    judges_answers: ClassVar[bool] = True
    """Whether it reads the answers at all, so that an example can be right or wrong."""

    @property
    def final_cap(self) -> float:
        """The final soft cap that the metric undoes, which must be the model's own; 0 for none."""
        return 0.0

    def check(self, example: Example) -> None:
        """Raise `InputError` if an example lacks something that the metric needs; most need nothing."""
        return

    @abstractmethod
    def __call__(self, logits: Tensor, answers: Answers) -> Tensor:
        """F of each row [row]."""


def _need_corrupted_answer(metric: Metric, example: Example) -> None:
    if not example.corrupted_answers:
        raise InputError(
            f"metric {metric.name!r} compares with a corrupted answer, and there is none; "
            "give one, or use metric='log_probability'"
        )


@dataclass(frozen=True)
class LogitDifference(Metric):
    """The mean logit of the clean answers minus that of the corrupted ones."""

    reads_answers_alone = True

    def check(self, example: Example) -> None:
        """Raise `InputError` for an example without a corrupted answer."""
        _need_corrupted_answer(self, example)

    def __call__(self, logits: Tensor, answers: Answers) -> Tensor:
        """F of each row [row]."""
        return _mean(logits, answers.clean) - _mean(logits, answers.corrupted)


@dataclass(frozen=True)
class DemeanedLogit(Metric):
    """The mean logit of the clean answers minus the mean logit of the whole vocabulary.

    `cap`: that of the model's final soft cap, `logit = cap tanh(z / cap)`, to take z, the logits before it, in place of
    the logits; 0 for these. This is the target of attribution graphs (Ameisen et al. 2025).
    """

    cap: float = ranged(0.0, 0, 1e6)

    @property
    def final_cap(self) -> float:
        """The final soft cap that the metric undoes."""
        return self.cap

    def __call__(self, logits: Tensor, answers: Answers) -> Tensor:
        """F of each row [row]."""
        before = torch.atanh(logits / self.cap) * self.cap if self.cap else logits
        return _mean(before, answers.clean) - before.mean(-1)


@dataclass(frozen=True)
class LogProbability(Metric):
    """The log of the total probability of the clean answers."""

    def __call__(self, logits: Tensor, answers: Answers) -> Tensor:
        """F of each row [row]."""
        return _gathered(logits.log_softmax(-1), answers.clean, -torch.inf).logsumexp(-1)


@dataclass(frozen=True)
class Probability(Metric):
    """The total probability of the clean answers."""

    def __call__(self, logits: Tensor, answers: Answers) -> Tensor:
        """F of each row [row]."""
        return _gathered(logits.softmax(-1), answers.clean, 0.0).sum(-1)


@dataclass(frozen=True)
class ProbabilityDifference(Metric):
    """The total probability of the clean answers minus that of the corrupted ones."""

    def check(self, example: Example) -> None:
        """Raise `InputError` for an example without a corrupted answer."""
        _need_corrupted_answer(self, example)

    def __call__(self, logits: Tensor, answers: Answers) -> Tensor:
        """F of each row [row]."""
        probabilities = logits.softmax(-1)
        corrupted = _gathered(probabilities, answers.corrupted, 0.0).sum(-1)
        return _gathered(probabilities, answers.clean, 0.0).sum(-1) - corrupted


@dataclass(frozen=True)
class KL(Metric):
    """-KL(unedited clean run || this run) of the next-token distribution: 0 at best."""

    judges_answers = False

    def __call__(self, logits: Tensor, answers: Answers) -> Tensor:
        """F of each row [row]."""
        assert answers.reference is not None
        reference = answers.reference.log_softmax(-1)
        return -(reference.exp() * (reference - logits.log_softmax(-1))).sum(-1)


def _gathered(values: Tensor, ids: Tensor, missing: float) -> Tensor:
    """The values at ids [row, set], and `missing` where an id is padding."""
    picked = values.gather(-1, ids.clamp(min=0))
    return picked.masked_fill(ids < 0, missing)


def _mean(values: Tensor, ids: Tensor) -> Tensor:
    return _gathered(values, ids, 0.0).sum(-1) / (ids >= 0).sum(-1)


_POINTS = 32


def mean_slope(metric: Metric, answers: Answers, start: Tensor, end: Tensor) -> Tensor:
    """The mean of dF/dlogits on the straight line from `start` to `end` [row, vocabulary].

    `(mean slope . (end - start)).sum(-1) = F(end) - F(start)`; 32 Gauss-Legendre points make this exact to rounding.
    """
    places, weights = np.polynomial.legendre.leggauss(_POINTS)
    total = torch.zeros_like(start)
    with torch.enable_grad():
        for place, weight in zip(places.tolist(), weights.tolist(), strict=True):
            logits = (start + (1 + place) / 2 * (end - start)).detach().requires_grad_()
            total += weight / 2 * torch.autograd.grad(metric(logits, answers).sum(), logits)[0]
    return total
