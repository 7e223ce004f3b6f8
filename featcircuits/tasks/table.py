"""The names of all metrics: adding one takes a class and a row here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featcircuits.inputs.variants import Table

if TYPE_CHECKING:
    from featcircuits.tasks.metrics import Metric

METRICS: Table[Metric] = Table(
    "metric",
    "featcircuits.tasks",
    {
        "logit_difference": "metrics.LogitDifference",
        "demeaned_logit": "metrics.DemeanedLogit",
        "log_probability": "metrics.LogProbability",
        "probability": "metrics.Probability",
        "probability_difference": "metrics.ProbabilityDifference",
        "kl": "metrics.KL",
    },
)
