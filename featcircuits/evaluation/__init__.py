"""Evaluation: how much of a behaviour a circuit explains, measured by ablation and patching."""

from featcircuits.evaluation.ablations import ABLATIONS, Ablation, Mean, Resample, Zero
from featcircuits.evaluation.bound import Bound, bound_missed
from featcircuits.evaluation.evaluate import evaluate
from featcircuits.evaluation.patching import Patch, Patching, patch
from featcircuits.evaluation.paths import PathTest, explained_effect
from featcircuits.evaluation.report import Curve, Report
from featcircuits.evaluation.scope import scope_of

__all__ = [
    "ABLATIONS",
    "Ablation",
    "Bound",
    "Curve",
    "Mean",
    "Patch",
    "Patching",
    "PathTest",
    "Report",
    "Resample",
    "Zero",
    "bound_missed",
    "evaluate",
    "explained_effect",
    "patch",
    "scope_of",
]
