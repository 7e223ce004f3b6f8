"""The names of all ablations: adding one takes a class and a row here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featcircuits.inputs.variants import Table

if TYPE_CHECKING:
    from featcircuits.evaluation.ablations import Ablation

ABLATIONS: Table[Ablation] = Table(
    "ablation",
    "featcircuits.evaluation",
    {
        "mean": "ablations.Mean",
        "zero": "ablations.Zero",
        "resample": "ablations.Resample",
        "paired": "ablations.Paired",
    },
)
