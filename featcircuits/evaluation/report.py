"""What an evaluation found, as one value that goes to JSON and to a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from featcircuits.files.plain import plain


@dataclass(frozen=True)
class Curve:
    """Scores of the first `sizes` nodes of a ranking, and of random circuits of the same size at each site.

    `random` is the mean over draws, `random_sd` their spread, NaN without draws and with one. `area`: mean
    faithfulness over the sizes `area_over`, from none to the last, with straight lines between the points;
    `area_from_one`: mean |1 - faithfulness| (lower is better). Neither is enough alone: what works against
    the answer, left out, raises the first and may spoil the second. Areas over other sizes are others.
    Intervals are 95 %, from the same parts of the examples as the report's; `intervals` those of `faithfulness`.
    """

    sizes: tuple[int, ...]
    faithfulness: tuple[float, ...]
    completeness: tuple[float, ...]
    random: tuple[float, ...]
    random_sd: tuple[float, ...]
    draws: int
    area: float
    area_from_one: float
    area_random: float
    area_over: tuple[int, int]
    intervals: tuple[tuple[float, float] | None, ...] | None = None
    area_interval: tuple[float, float] | None = None
    area_from_one_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Report:
    """Faithfulness and completeness of a circuit, never without what they are made of.

    `F_model`, `F_circuit`, `F_empty`, `F_complement`: mean metric of the model, with everything
    outside the circuit ablated, with everything ablated, and with the circuit ablated.
    `invalid` says why, where the model's metric does not clearly rise above the empty circuit's:
    the ratios are then what the formula gives and mean nothing, and JSON and tables leave them out.
    `interval`: 95 % of faithfulness, from `folds` disjoint
    parts of the examples that each draw their own ablation values; None with too few examples.
    `features_alone`: faithfulness of all features with every error term ablated, the empty circuit too. It says
    what the dictionaries explain. It bounds no circuit with error nodes: these may carry more.
    Nodes and edges are counted in scope: at the sites that are ablated. Under error_nodes="keep" and "remove" error
    nodes are no choice of the circuit's, and `n_nodes` and all sizes count features alone (`counted`). `F_empty` is
    under the same setting: with error_nodes="keep" the empty circuit has every error term.
    `ablation_places`: where ablation values stand ("position", "role", "from the end", "anywhere"), whatever the
    circuit's places; None where they are the same everywhere.
    `held_out`: True where none of the examples was traced on, None where that is unknown; `n_seen`: how many were.
    `notes`: what a reader has to know, in sentences; the first is about held-out examples.
    `made_on`: the model, the dictionaries and the task with their fingerprints, and the versions of libraries.
    """

    faithfulness: float
    completeness: float
    F_model: float
    F_circuit: float
    F_empty: float
    F_complement: float
    invalid: str | None
    interval: tuple[float, float] | None
    folds: int
    features_alone: float
    counted: str
    n_nodes: int
    n_error_nodes: int
    n_edges: int
    n_examples: int
    task: str
    metric: str
    ablation: str
    ablation_places: str | None
    error_nodes: str
    start_layer: int
    embed: bool
    seed: int
    held_out: bool | None
    n_seen: int | None
    notes: tuple[str, ...]
    curve: Curve | None
    made_on: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; ratios that mean nothing, and NaN, which JSON lacks, become null."""
        void = dict.fromkeys(_RATIOS) if self.invalid else {}
        return plain({**asdict(self), **void})


_RATIOS = ("faithfulness", "completeness", "interval", "features_alone", "curve")
