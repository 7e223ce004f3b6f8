"""Single effects and edges of every estimator beside exact patching, with what each costs."""

from __future__ import annotations

from typing import Any

import featcircuits as fc
from experiments.frontier.models import ESTIMATORS, Case


def accuracy(case: Case, pairs: int, edge_nodes: int = 40) -> dict[str, list[dict[str, Any]]]:
    """`scores`: a row an estimator, kind of node and kind of site; `costs`: a row an estimator and basis."""
    task = case.train.take(min(pairs, len(case.train)))
    found = fc.agree(case.spliced, task, ESTIMATORS, edge_nodes=edge_nodes).to_json()
    counted = case.found() | {"pairs": len(task)}
    return {name: [counted | row for row in found[name]] for name in ("scores", "costs")}
