"""Metrics: how strongly a run shows the behaviour, a number per example.

A metric grows with the behaviour: F = logit(clean answer) - logit(corrupted answer) and its kin.
Effects are changes of m = -F (DESIGN of the field: Marks et al. attribute logit(corrupted) -
logit(clean) and evaluate the opposite), so a node that carries the behaviour has a positive effect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from featcircuits.errors import InputError


@dataclass(frozen=True, eq=False)
class Answers:
    """What an example's answer is judged by.

    `clean`, `corrupted`: token ids [example, set], padded with -1; `corrupted` may be empty.
    `reference`: the unedited model's logits [example, vocabulary] on the clean prompts.
    """

    clean: Tensor
    corrupted: Tensor
    reference: Tensor | None = None

    def select(self, rows: Tensor) -> Answers:
        reference = None if self.reference is None else self.reference[rows]
        return Answers(self.clean[rows], self.corrupted[rows], reference)


Metric = Callable[[Tensor, Answers], Tensor]
"""(logits [row, vocabulary], answers) -> the behaviour's strength [row]."""


def _gathered(values: Tensor, ids: Tensor, missing: float) -> Tensor:
    """values at ids [row, set], `missing` where an id is padding."""
    picked = values.gather(-1, ids.clamp(min=0))
    return picked.masked_fill(ids < 0, missing)


def _mean(values: Tensor, ids: Tensor) -> Tensor:
    return _gathered(values, ids, 0.0).sum(-1) / (ids >= 0).sum(-1)


def logit_difference(logits: Tensor, answers: Answers) -> Tensor:
    """Mean logit of the clean answers less that of the corrupted ones."""
    return _mean(logits, answers.clean) - _mean(logits, answers.corrupted)


def log_probability(logits: Tensor, answers: Answers) -> Tensor:
    """Log of the total probability of the clean answers."""
    return _gathered(logits.log_softmax(-1), answers.clean, -torch.inf).logsumexp(-1)


def probability(logits: Tensor, answers: Answers) -> Tensor:
    """Total probability of the clean answers."""
    return _gathered(logits.softmax(-1), answers.clean, 0.0).sum(-1)


def probability_difference(logits: Tensor, answers: Answers) -> Tensor:
    """Total probability of the clean answers less that of the corrupted ones."""
    probabilities = logits.softmax(-1)
    corrupted = _gathered(probabilities, answers.corrupted, 0.0).sum(-1)
    return _gathered(probabilities, answers.clean, 0.0).sum(-1) - corrupted


def kl(logits: Tensor, answers: Answers) -> Tensor:
    """-KL(unedited clean run || this run) of the next-token distribution: 0 at best."""
    assert answers.reference is not None
    reference = answers.reference.log_softmax(-1)
    return -(reference.exp() * (reference - logits.log_softmax(-1))).sum(-1)


METRICS: Mapping[str, Metric] = {
    "logit_difference": logit_difference,
    "log_probability": log_probability,
    "probability": probability,
    "probability_difference": probability_difference,
    "kl": kl,
}

READS_ANSWERS_ALONE = frozenset({"logit_difference"})
"""Metrics that the logits of other tokens than the answers do not enter."""

READS_NO_ANSWERS = frozenset({"kl"})
"""Metrics that answers do not enter at all."""

NEEDS_CORRUPTED_ANSWERS = frozenset({"logit_difference", "probability_difference"})


def metric_named(name: str) -> Metric:
    """Look a metric up; an unknown name is an `InputError`."""
    if name not in METRICS:
        raise InputError(f"unknown metric {name!r}; known: {', '.join(METRICS)}")
    return METRICS[name]


_POINTS = 32


def mean_slope(metric: Metric, answers: Answers, start: Tensor, end: Tensor) -> Tensor:
    """[row, vocabulary]: mean of dF/dlogits on the straight line from `start` to `end`, so that
    `(mean slope . (end - start)).sum(-1) = F(end) - F(start)`: 32 Gauss-Legendre points, exact to rounding.
    """
    places, weights = np.polynomial.legendre.leggauss(_POINTS)
    total = torch.zeros_like(start)
    with torch.enable_grad():
        for place, weight in zip(places.tolist(), weights.tolist(), strict=True):
            logits = (start + (1 + place) / 2 * (end - start)).detach().requires_grad_()
            total += weight / 2 * torch.autograd.grad(metric(logits, answers).sum(), logits)[0]
    return total
