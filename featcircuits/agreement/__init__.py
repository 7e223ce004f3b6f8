"""How far estimators are from exact patching on a user's own model, what each costs, and what adds up."""

from featcircuits.agreement.agree import Agreement, Score, agree
from featcircuits.agreement.audit import Residual, audit
from featcircuits.agreement.cost import Cost

__all__ = ["Agreement", "Cost", "Residual", "Score", "agree", "audit"]
