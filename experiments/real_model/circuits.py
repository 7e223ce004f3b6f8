"""Circuits of three behaviours in features, judged on held-out pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import featcircuits as fc
from experiments.real_model.pairs import task_of
from featcircuits.runs.cost import measured
from featcircuits.splicing.spliced import SplicedModel

STUDIED = ("capital", "gender", "agreement_clause")
NODES, EDGES = "top=150", "top=600"
PAIRS = 40
SIZES = (10, 20, 40, 80, 150, 300, 600, 1200)
SETTINGS = (("paired", "as-circuit"), ("paired", "remove"), ("mean", "as-circuit"))


def circuits(spliced: SplicedModel, folder: Path, behaviour: str) -> dict[str, Any]:
    """The circuit's counts and shares, and a row per ablation and treatment of errors."""
    task = task_of(spliced, folder / "tasks", behaviour, "train", PAIRS)
    held_out = task_of(spliced, folder / "tasks", behaviour, "test")
    with measured(spliced, len(task) * task.longest) as cost:
        found = fc.trace(spliced, task, nodes="secant", keep_nodes=NODES, keep_edges=EDGES)
    path = folder / f"{behaviour}.json.gz"
    if not path.exists():
        found.circuit.save(path)
    strongest = [{"node": str(node), "effect": score.effect} for node, score in list(found.ranking.nodes.items())[:30]]
    return {
        "pairs": len(task), "cpu": cost.cpu_seconds, "nodes": found.circuit.n_nodes, "edges": found.circuit.n_edges,
        "errors": sum(node.is_error for node in found.circuit.nodes),
        "error_share": found.circuit.manifest["error_share"], "strongest": strongest,
        "evaluations": [_evaluated(spliced, found, held_out, *setting) for setting in SETTINGS],
    }  # fmt: skip


def _evaluated(
    spliced: SplicedModel, found: fc.Trace, held_out: fc.Task, ablation: str, error_nodes: str
) -> dict[str, Any]:
    sizes = [size for size in SIZES if size <= found.ranking.n_nodes // 2]
    report = fc.evaluate(
        spliced, found.circuit, held_out,
        ablation=ablation, error_nodes=error_nodes, ranking=found.ranking, sizes=sizes, draws=2,
    ).to_json()  # fmt: skip
    kept = (
        "faithfulness", "interval", "completeness", "features_alone", "F_model", "F_empty", "n_nodes", "n_examples",
        "invalid", "curve",
    )  # fmt: skip
    return {"ablation": ablation, "error_nodes": error_nodes} | {key: report[key] for key in kept}
