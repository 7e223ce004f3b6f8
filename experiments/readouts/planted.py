"""What readouts say about the planted models, as plain records."""

from __future__ import annotations

from typing import Any

import featcircuits as fc
from experiments.readouts.designs import (
    Planted,
    label_fixation,
    negation,
    overwritten_count,
    recall_and_reasoning,
    two_hops,
)
from featcircuits.circuit.circuit import NodeScore
from featcircuits.readouts.grid import OTHERS, OWN_STATES, RANDOM


def back_patching() -> dict[str, Any]:
    """Two hops: right before, the best single cell, and the best cell of each prompt, with controls."""
    planted = two_hops()
    found = fc.back_patch(planted.spliced, planted.task("two_hops"), places=[1, 2, 3])
    best = found.best()
    return {
        "right": sum(found.right) / len(found.right),
        "best": f"resid_{best.target}@{best.place} <- resid_{best.source}",
        "best_cell": {put: found.score(best, put).to_json() for put in (OWN_STATES, OTHERS, RANDOM)},
        "any_cell": {put: found.any_cell(put).to_json() for put in (OWN_STATES, OTHERS, RANDOM)},
        "best_of_control": {put: found.score(found.best(put), put).to_json() for put in (OTHERS, RANDOM)},
    }


def overwriting() -> dict[str, Any]:
    """A count that a late node overwrites: its two effects, and right answers with it ablated."""
    planted = overwritten_count()
    model, task = planted.spliced, planted.task("count")
    rows = fc.promote_suppress(model, planted.task("overwritten"), "exact")
    node = planted.node("resid_2/overwrite@3")
    own = next(row for row in rows if row.node == node)
    before = fc.behaviour_of(model, task).right_clean
    outcome = fc.intervene(model, task, f"{node}=0", estimator="exact", controls=0)
    return {
        "right": sum(before) / len(before), "node": planted.said(node), "does": own.does,
        "adds_to_right": own.right, "adds_to_wrong": own.wrong,
        "right_without": sum(one.after > 0 for one in outcome.examples) / len(task),
    }  # fmt: skip


def fixation() -> dict[str, Any]:
    """Labels that are shown win: nodes that flip with the outcome, and right answers with the copying head sunk."""
    planted = label_fixation()
    model, task = planted.spliced, planted.task("labels")
    flips = [row for row in fc.split_by_outcome(model, task, "exact") if row.flips]
    sunk = fc.sink_heads(model, task, [(1, 0)], -1)
    other = fc.sink_heads(model, task, [(0, 0)], -1)
    return {
        "right": sunk.right_before, "flips": [(planted.said(row.node), row.right, row.wrong) for row in flips],
        "right_sunk": sunk.right_sunk, "right_zeroed": sunk.right_zeroed, "right_other_head_sunk": other.right_sunk,
    }  # fmt: skip


def negations() -> dict[str, Any]:
    """The same answers by construction and by suppression: the effect on F is the same, what it does is not."""
    return {planted.name: _negated(planted) for planted in (negation(False), negation(True))}


def _negated(planted: Planted) -> dict[str, Any]:
    model, task = planted.spliced, planted.task("negated")
    rows = fc.promote_suppress(model, task, "exact")
    written = [row for row in rows if planted.said(row.node).startswith("mlp_1/said")]
    # in the suppressed model the stream goes below zero, where a rectified feature ends and the error begins
    at = max((row for row in rows if str(row.node.site) == "mlp_1"), key=lambda row: abs(row.whole))
    own = written[0] if written else at
    right = fc.behaviour_of(model, task).right_clean
    return {
        "right": sum(right) / len(right), "node": planted.said(own.node), "does": own.does, "on_F": own.whole,
        "adds_to_right": own.right, "adds_to_wrong": own.wrong,
    }  # fmt: skip


def dissociation(shared: bool, draws: int = 100) -> dict[str, Any]:
    """Selectivity of the recall and the reasoning circuit: all nodes with an exact effect on their own task."""
    planted = recall_and_reasoning(shared)
    model = planted.spliced
    tasks = {name: planted.task(name) for name in planted.cases}
    circuits = {}
    for name, task in tasks.items():
        found = fc.node_effects(model, task, "exact").nodes()
        nodes = {one.node: NodeScore(one.mean, one.standard_error) for one in found if abs(one.mean) > 1e-9}
        circuits[name] = fc.Circuit(nodes, {}, task.places, task.aggregate)
    return fc.selectivity(model, circuits, tasks, ablation="paired", draws=draws).to_json()
