"""Evaluation: how much of a behaviour a circuit explains, measured by ablation."""

from featcircuits.evaluation.ablations import ABLATIONS, Ablation, Mean, Resample, Zero
from featcircuits.evaluation.evaluate import evaluate
from featcircuits.evaluation.report import Curve, Report
from featcircuits.evaluation.scope import scope_of

__all__ = [
    "ABLATIONS",
    "Ablation",
    "Curve",
    "Mean",
    "Report",
    "Resample",
    "Zero",
    "evaluate",
    "scope_of",
]
