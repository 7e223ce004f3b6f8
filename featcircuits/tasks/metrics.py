"""Metrics: how strongly a run shows the behaviour, one number per example.

A metric F grows with the behaviour, for example F = logit(clean answer) - logit(corrupted answer).
Effects are changes of m = -F, so a node that carries the behaviour has a positive effect. (Marks et al. attribute
logit(corrupted) - logit(clean) and evaluate the opposite, which gives the same numbers.)
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


Metric = Callable[[Tensor, Answers], Tensor]
"""(logits [row, vocabulary], answers) -> F [row]."""


def _gathered(values: Tensor, ids: Tensor, missing: float) -> Tensor:
    """The values at ids [row, set], and `missing` where an id is padding."""
    picked = values.gather(-1, ids.clamp(min=0))
    return picked.masked_fill(ids < 0, missing)


def _mean(values: Tensor, ids: Tensor) -> Tensor:
    return _gathered(values, ids, 0.0).sum(-1) / (ids >= 0).sum(-1)


def logit_difference(logits: Tensor, answers: Answers) -> Tensor:
    """The mean logit of the clean answers minus that of the corrupted ones."""
    return _mean(logits, answers.clean) - _mean(logits, answers.corrupted)


def log_probability(logits: Tensor, answers: Answers) -> Tensor:
    """The log of the total probability of the clean answers."""
    return _gathered(logits.log_softmax(-1), answers.clean, -torch.inf).logsumexp(-1)


def probability(logits: Tensor, answers: Answers) -> Tensor:
    """The total probability of the clean answers."""
    return _gathered(logits.softmax(-1), answers.clean, 0.0).sum(-1)


def probability_difference(logits: Tensor, answers: Answers) -> Tensor:
    """The total probability of the clean answers minus that of the corrupted ones."""
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
"""Metrics that read only the logits of the answers."""

READS_NO_ANSWERS = frozenset({"kl"})
"""Metrics that read no answers."""

NEEDS_CORRUPTED_ANSWERS = frozenset({"logit_difference", "probability_difference"})


def metric_named(name: str) -> Metric:
    """The metric of a name; raises `InputError` for an unknown one."""
    if name not in METRICS:
        raise InputError(f"unknown metric {name!r}; known: {', '.join(METRICS)}")
    return METRICS[name]


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
