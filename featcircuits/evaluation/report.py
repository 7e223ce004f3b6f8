"""The result of an evaluation, as one value for JSON and tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from featcircuits.files.plain import plain


@dataclass(frozen=True)
class Curve:
    """The scores of the first `sizes` nodes of a ranking, and of random circuits of the same size at each site.

    `random` is the mean over draws, and `random_sd` their spread, NaN without draws or with one. `area`: the mean
    faithfulness over the sizes `area_over`, from 0 to the last, with straight lines between the points;
    `area_from_one`: the mean |1 - faithfulness| (lower is better). Neither is enough alone: leaving out nodes that work
    against the answer raises the first and may worsen the second. Areas over different sizes cannot be compared.
    Intervals are 95 %, from the same parts of the examples as the report's; `intervals` are those of `faithfulness`.
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
    """Faithfulness and completeness of a circuit, always with the metrics that they are computed from.

    `F_model`, `F_circuit`, `F_empty`, `F_complement`: the mean metric of the model, with everything
    outside the circuit ablated, with everything ablated, and with the circuit ablated.
    `invalid` gives the reason if the model's metric is not clearly above the empty circuit's. The ratios then
    follow the formula but mean nothing, and JSON and tables leave them out.
    `interval`: the 95 % interval of faithfulness, from `folds` disjoint
    parts of the examples that each draw their own ablation values; None if there are too few examples.
    `features_alone`: the faithfulness of all features, with every error node ablated in the empty circuit too. It says
    what the dictionaries explain. It is no upper bound for circuits with error nodes, which may carry more.
    Nodes and edges count if they are in scope: at sites that are ablated. With error_nodes="keep" or "remove" a circuit
    does not decide on error nodes, so `n_nodes` and all sizes count only features (`counted`). `F_empty` has
    the same setting: with error_nodes="keep" the empty circuit has every error node.
    `replacement`, `graph_completeness`: the two scores of the circuit's own graph by influence (featcircuits.circuit.
    influence), None without edges, and the first without nodes at the embedding. They are no measurements.
    `ablation_places`: the kind of places of ablation values ("position", "role", "from the end", "anywhere"), whatever
    the circuit's places; None if values are the same everywhere.
    `held_out`: True if none of the examples was traced on, None if that is unknown; `n_seen`: how many were.
    `notes`: sentences that a reader needs to know; the first is about held-out examples.
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
    replacement: float | None
    graph_completeness: float | None
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
        """The report as plain JSON values; meaningless ratios, and NaN, which JSON lacks, become null."""
        void = dict.fromkeys(_RATIOS) if self.invalid else {}
        return plain({**asdict(self), **void})

    def _repr_html_(self) -> str:
        """What notebooks show."""
        from featcircuits.evaluation.html import report_html

        return report_html(self)


_RATIOS = ("faithfulness", "completeness", "interval", "features_alone", "curve")
