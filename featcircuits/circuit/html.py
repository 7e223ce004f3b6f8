"""A circuit as HTML for notebooks: its size, its strongest nodes with their labels, and its strongest edges."""

from __future__ import annotations

import math

from featcircuits.circuit.circuit import Circuit, NodeScore
from featcircuits.files.html import html_block, html_table

SHOWN = 15


def circuit_html(circuit: Circuit) -> str:
    """Where the page is wanted instead: `fc.page.show(circuit)`."""
    task = circuit.manifest.get("task")
    name = f"{task['name']}: " if isinstance(task, dict) and task.get("name") else ""
    title = f"{name}circuit of {circuit.n_nodes} nodes and {circuit.n_edges} edges"
    return html_block(title, "<div style='display: flex; gap: 3em'>", _nodes(circuit), _edges(circuit), "</div>")


def _nodes(circuit: Circuit) -> str:
    ranked = sorted(circuit.nodes.items(), key=lambda item: -abs(item[1].effect))[:SHOWN]
    label = ("label",) if any(node in circuit.labels for node, _ in ranked) else ()
    rows = [(str(node), _effect(score), *(circuit.labels.get(node, "") for _ in label)) for node, score in ranked]
    return html_table(rows, ("strongest nodes", "effect ± s.e.", *label), numbers=[1])


def _edges(circuit: Circuit) -> str:
    ranked = sorted(circuit.edges.items(), key=lambda item: -abs(item[1]))[:SHOWN]
    rows = [(str(source), str(target), f"{weight:+.4f}") for (source, target), weight in ranked]
    return html_table(rows, ("strongest edges from", "to", "effect"), numbers=[2])


def _effect(score: NodeScore) -> str:
    spread = "" if math.isnan(score.standard_error) else f" ± {score.standard_error:.4f}"
    return f"{score.effect:+.4f}{spread}"
