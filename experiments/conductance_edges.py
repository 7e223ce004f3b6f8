"""Edges by conductance beside those of other estimators: how close to exact patching, and how stable.

    python -m experiments.conductance_edges

On the shipped suite. Accuracy: Pearson's correlation with exact patching of the edges among the 30 strongest nodes, 12
pairs, by the kind of site that edges lead to (median and worst over behaviours and kinds). Stability: among the same
60 nodes (by `secant`), how far the 200 strongest edges that two halves of 40 pairs choose agree (Jaccard), and
how many of the circuit's edges are kept in at least 9 of 10 resamples.
"""

import argparse
import math
from statistics import median

import torch

import featcircuits as fc
from experiments.selection.pairs import tasks
from featcircuits.splicing.spliced import SplicedModel

ESTIMATORS = ("atp", "ig:steps=5", "ig-inputs", "relp", "secant", "ig-conductance")


def accuracy(spliced: SplicedModel, behaviours: list[str], pairs: int) -> dict[str, list[float]]:
    """estimator -> the correlations."""
    found: dict[str, list[float]] = {}
    for behaviour in behaviours:
        task, _ = tasks(spliced, behaviour, pairs, None)
        for score in fc.agree(spliced, task, ESTIMATORS, bases=("features",), edge_nodes=30).scores:
            if score.what == "edge" and not math.isnan(score.comparison.pearson):
                found.setdefault(score.estimator, []).append(score.comparison.pearson)
    return found


def stability(spliced: SplicedModel, behaviour: str, estimator: str, pairs: int) -> tuple[float, int, int]:
    """(Jaccard index of the edges of two halves, edges kept in 9 of 10 resamples, all edges of the circuit)."""
    task, _ = tasks(spliced, behaviour, pairs, None)
    circuit = fc.trace(
        spliced, task, nodes="secant", edges=estimator, keep_nodes="top=60", keep_edges="top=200"
    ).circuit
    found = fc.stability(spliced, circuit, task, resamples=50)
    assert found.halves.edges is not None
    return found.halves.edges, sum(share >= 0.9 for share in found.edges.values()), len(found.edges)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="Edges by conductance: accuracy and stability.")
    parser.add_argument("--behaviours", default="agreement_rc,gender,ioi", help="comma-separated")
    options = parser.parse_args()
    torch.set_num_threads(1)
    spliced, behaviours = fc.load(), options.behaviours.split(",")
    for estimator, scores in accuracy(spliced, behaviours, 12).items():
        print(f"{estimator:16} Pearson with exact patching: median {median(scores):.2f}, worst {min(scores):.2f}")
    for behaviour in behaviours[:2]:
        for estimator in ESTIMATORS:
            halves, kept, every = stability(spliced, behaviour, estimator, 40)
            print(
                f"{behaviour:14} {estimator:16} halves agree on {halves:.2f} of edges; {kept} of {every} edges stable"
            )


if __name__ == "__main__":
    main()
