"""The names of all estimators: adding one takes a file and a row here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featcircuits.inputs.variants import Table

if TYPE_CHECKING:
    from featcircuits.estimators.estimator import Estimator

ESTIMATORS: Table[Estimator] = Table(
    "estimator",
    "featcircuits.estimators",
    {
        "exact": "exact.ExactPatching",
        "atp": "atp.AttributionPatching",
        "atp-drop": "atp_drop.GradDrop",
        "atp-qk": "atp_star.QueryKeyFix",
        "atp-star": "atp_star.AtPStar",
        "atp-hop1": "atp_star.FiniteFirstHop",
        "ig": "ig.IntegratedGradients",
        "ig-inputs": "ig_inputs.InputIntegratedGradients",
        "ig-chain": "ig_chain.ChainedIntegratedGradients",
        "ig-conductance": "ig_conductance.Conductance",
        "relp": "relp.RelevancePatching",
        "secant": "secant.Secant",
        "blend": "blend.Blend",
    },
)
