"""How far estimators are from exact patching on a user's own model, and what each costs."""

from featcircuits.agreement.agree import Agreement, Score, agree
from featcircuits.runs.cost import Cost

__all__ = ["Agreement", "Cost", "Score", "agree"]
