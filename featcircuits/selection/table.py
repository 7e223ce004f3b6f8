"""The names of all selection rules: adding one takes a file and a row here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featcircuits.inputs.variants import Table

if TYPE_CHECKING:
    from featcircuits.selection.rule import SelectionRule

SELECTIONS: Table[SelectionRule] = Table(
    "selection rule",
    "featcircuits.selection",
    {
        "effect": "effect.ByEffect",
        "helpful": "helpful.HelpfulFirst",
        "ratio": "ratio.Ratio",
        "ranks": "ranks.MeanRank",
        "iterated": "iterated.IteratedPruning",
        "mask": "mask.LearnedMask",
        "greedy": "greedy.Greedy",
        "random": "random.RandomOrder",
    },
)
