"""Comparison of estimators with exact patching on the user's own model, with the cost of each."""

from featcircuits.agreement.agree import Agreement, Score, agree
from featcircuits.runs.cost import Cost

__all__ = ["Agreement", "Cost", "Score", "agree"]
