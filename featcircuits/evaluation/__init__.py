"""Evaluation: how much of a behaviour a circuit explains, measured by ablation."""

from featcircuits.evaluation.table import ABLATIONS

__all__ = ["ABLATIONS"]
