"""What the page knows of a circuit, as plain JSON values: every figure in it is the files'."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from featcircuits.circuit.circuit import Circuit
from featcircuits.circuit.layout import drawn
from featcircuits.files.plain import plain
from featcircuits.groups.proposing import profile
from featcircuits.model.nodes import METRIC
from featcircuits.page.outcomes import outcome_at

if TYPE_CHECKING:
    import networkx as nx

    from featcircuits.dossiers.dossiers import Dossiers
    from featcircuits.effects.results import NodeEffects

_DIGITS = 6
"""Significant digits of a dossier's figures, which come from activations in single precision."""
_REPORTED = (
    "faithfulness", "completeness", "interval", "invalid", "ablation", "n_examples", "counted", "notes", "curve",
)  # fmt: skip


def page_data(
    circuit: Circuit,
    *,
    ranking: Circuit | None = None,
    report: Mapping[str, Any] | None = None,
    dossiers: Iterable[Dossiers] = (),
    state: Mapping[str, Any] | None = None,
    effects: NodeEffects | None = None,
    outcome: Mapping[str, Any] | None = None,
    title: str = "",
) -> dict[str, Any]:
    """The values for the page's script.

    `ranking`: all nodes in the selected order, by whose numbers a report's curve counts. `report`: of
    `Report.to_json()`. `effects`: with effects per example, so that the page can show one example's;
    not for roles, whose tokens differ from example to example. `outcome`: of interventions, by `read_outcome` or
    `Outcome.to_json()`.
    """
    graph = drawn(circuit)
    rank = {str(node): number for number, node in enumerate(() if ranking is None else ranking.nodes, 1)}
    order = {str(node): number for number, node in enumerate(circuit.nodes)}
    names = sorted(graph, key=lambda name: (order.get(name, math.inf), name))
    index = {name: number for number, name in enumerate(names)}
    edges = sorted(graph.edges(data=True), key=lambda edge: (-abs(edge[2]["weight"]), edge[0], edge[1]))
    return {
        "title": title or _task(circuit) or "circuit",
        "summary": _summary(circuit),
        "provenance": _provenance(circuit),
        "circuit": digest(circuit),
        "nodes": [_node(name, graph.nodes[name], order.get(name), rank.get(name)) for name in names],
        "edges": [
            [index[source], index[target], given["weight"], given.get("stability")] for source, target, given in edges
        ],
        "bands": _bands(graph),
        "places": _places(graph),
        "report": None if report is None else {name: report.get(name) for name in _REPORTED},
        "dossiers": _dossiers(circuit, list(dossiers)),
        "groups": [{"name": name, "nodes": [*map(str, own)]} for name, own in circuit.groups.items()],
        "state": None if state is None else dict(state),
        "outcome": None if outcome is None else _outcome(circuit, outcome),
        "examples": None if effects is None or circuit.aggregate == "role" else _examples(circuit, effects),
    }


def _outcome(circuit: Circuit, outcome: Mapping[str, Any]) -> Mapping[str, Any]:
    return outcome if "changed" in outcome else outcome_at(outcome, circuit)


def _examples(circuit: Circuit, effects: NodeEffects) -> dict[str, Any]:
    """The effect of every node in each example, [example][order], rounded."""
    columns = [profile(effects, node).tolist() for node in circuit.nodes]
    rows = zip(*columns, strict=True)
    return {
        "names": [f"example {number}" for number in range(1, effects.shape[0] + 1)],
        "effects": [[_short(value) for value in row] for row in rows],
    }


def digest(circuit: Circuit) -> str:
    """A hash of nodes, edges and places; a saved view belongs to the circuit that has the same."""
    nodes = [(str(node), score.effect) for node, score in circuit.nodes.items()]
    edges = sorted((str(source), str(target), weight) for (source, target), weight in circuit.edges.items())
    whole = json.dumps([nodes, edges, circuit.places, circuit.aggregate])
    return hashlib.sha256(whole.encode()).hexdigest()


def _node(name: str, given: Mapping[str, Any], order: int | None, rank: int | None) -> dict[str, Any]:
    return {
        "name": name,
        "label": given["label"],
        "kind": given["kind"],
        "site": given["site"],
        "feature": given["feature"] if given["feature"] >= 0 else None,
        "place": given["place"],
        "words": given["words"],
        "effect": given["effect"],
        "se": given.get("standard_error"),
        "influence": given.get("influence"),
        "stability": given.get("stability"),
        "x": round(given["x"], 1),
        "y": round(given["y"], 1),
        "order": order,
        "rank": rank,
    }


def _bands(graph: nx.DiGraph) -> list[dict[str, Any]]:
    """The sites from the inputs upwards, each in the middle of its nodes."""
    heights: dict[str, list[float]] = {}
    for _, data in graph.nodes(data=True):
        heights.setdefault(data["site"] or data["kind"], []).append(data["y"])
    rows = [{"site": site, "y": round((min(ys) + max(ys)) / 2, 1)} for site, ys in heights.items()]
    return sorted(rows, key=lambda row: row["y"])


def _places(graph: nx.DiGraph) -> list[dict[str, Any]]:
    """The places from left to right, each in the middle of its nodes."""
    found: dict[str, tuple[list[float], str]] = {}
    for name, data in graph.nodes(data=True):
        if name != METRIC:
            found.setdefault(data["place"], ([], data["words"]))[0].append(data["x"])
    rows = [
        {"name": place, "words": words, "x": round((min(xs) + max(xs)) / 2, 1)} for place, (xs, words) in found.items()
    ]
    return sorted(rows, key=lambda row: row["x"])


def _dossiers(circuit: Circuit, known: Sequence[Dossiers]) -> dict[str, Any]:
    """Feature -> its dossier, from the first ones that have it."""
    features = dict.fromkeys(f"{node.site}/{node.feature}" for node in circuit.nodes if not node.is_error)
    found = {name: next((one for one in known if name in one), None) for name in features}
    return {name: _short(plain(one[name].to_json())) for name, one in found.items() if one is not None}


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, Mapping):
        return {name: _short(part) for name, part in value.items() if name != "ids"}
    return [_short(part) for part in value] if isinstance(value, (list, tuple)) else value


def _part(circuit: Circuit, *path: str) -> Any:
    found: Any = circuit.manifest
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _task(circuit: Circuit) -> str:
    return str(_part(circuit, "task", "name") or "")


def _summary(circuit: Circuit) -> str:
    settings = _part(circuit, "settings") or {}
    parts = [
        f"{circuit.n_nodes} nodes, {circuit.n_edges} edges",
        str(_part(circuit, "suite", "name") or ""),
        f"{_part(circuit, 'task', 'n_examples')} examples" if _part(circuit, "task", "n_examples") else "",
        f"F = {_part(circuit, 'task', 'metric')}" if _part(circuit, "task", "metric") else "",
        f"effects by {settings['nodes']}" if settings.get("nodes") else "",
    ]
    return " · ".join(part for part in parts if part)


def _provenance(circuit: Circuit) -> str:
    version, model = _part(circuit, "featcircuits"), _part(circuit, "model", "source")
    made = f"Made by featcircuits {version}" if version else "Made by featcircuits"
    return f"{made} from the model {model}. " + _SAFE if model else f"{made}. {_SAFE}"


_SAFE = "The page holds all its data and asks nothing of the network. Its drawing uses d3 7.9.0, whose licence follows."
