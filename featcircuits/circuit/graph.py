"""A circuit as a networkx graph, and back.

`to_networkx` returns a DiGraph whose node ids are node names. Every export format carries its attributes:

| on | attribute | meaning |
|---|---|---|
| node | kind | "feature", "error", "input" or "metric" |
| node | site, site_kind, layer | "resid_3", "resid", 3; "", "", -1 for the metric and inputs |
| node | feature | the feature's number; -1 if there is none |
| node | place | position or role as text; "" if there is none |
| node | effect | mean effect on m; 0.0 for the metric and inputs |
| node | standard_error | of the effect; left out if it is unknown |
| node | words | the clean prompts' words at its place, the most frequent first; "" if they are not known |
| node | group | the name of its group; left out if it is in none |
| node | influence | how much of the metric flows through it along all paths; left out if no edge leads to it |
| node | stability | the share of resampled prompts from which it is chosen; left out if it is not known |
| node | membership | which circuits of a union have it; left out elsewhere |
| node | label | the text for viewers: the circuit's own label, else the node's name (for inputs with their words) |
| edge | weight, sign | mean effect of the edge; 1 or -1 |
| edge | stability, membership | as of nodes |
| graph | aggregate, places, manifest | JSON texts |
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from featcircuits.circuit.circuit import Circuit, NodeScore
from featcircuits.circuit.membership import add_membership
from featcircuits.errors import InputError, shortened
from featcircuits.files.reading import parse_json
from featcircuits.model.nodes import METRIC, Node, endpoint

if TYPE_CHECKING:
    import networkx as nx


def graph_of(circuit: Circuit) -> nx.DiGraph:
    """The circuit as a graph, with the attributes in the table at the top of this module."""
    import networkx as nx

    from featcircuits.circuit.influence import influence_in  # scipy takes its time

    graph = nx.DiGraph(
        aggregate=circuit.aggregate,
        places=json.dumps(circuit.places),
        manifest=json.dumps(circuit.manifest, sort_keys=True),
    )
    words = words_of(circuit.manifest)
    for node, score in circuit.nodes.items():
        graph.add_node(str(node), **_node_attributes(node, score, words))
    for end in dict.fromkeys(end for edge in circuit.edges for end in edge if isinstance(end, str)):
        graph.add_node(end, **_end_attributes(end, words))
    for end, label in circuit.labels.items():
        if str(end) in graph:
            graph.nodes[str(end)]["label"] = label
    for name, members in circuit.groups.items():
        for node in members:
            graph.nodes[str(node)]["group"] = name
    for (source, target), weight in circuit.edges.items():
        graph.add_edge(str(source), str(target), weight=weight, sign=1 if weight >= 0 else -1)
    found = influence_in(circuit)
    for end, value in found.nodes.items() if found else ():
        if end != METRIC:
            graph.nodes[str(end)]["influence"] = value
    _add_stability(graph, circuit.manifest)
    add_membership(graph, circuit.manifest)
    return graph


def stable_nodes(manifest: Mapping[str, Any]) -> dict[str, float]:
    """Node -> the share of resampled prompts that choose it, if a manifest has them; damaged ones are left out."""
    found = manifest.get("stability")
    nodes = found.get("nodes") if isinstance(found, Mapping) else None
    return (
        {name: share for name, share in nodes.items() if isinstance(share, float)} if isinstance(nodes, Mapping) else {}
    )


def _add_stability(graph: nx.DiGraph, manifest: Mapping[str, Any]) -> None:
    """The shares of nodes and edges."""
    for name, share in stable_nodes(manifest).items():
        if name in graph:
            graph.nodes[name]["stability"] = share
    found = manifest.get("stability")
    rows = found.get("edges") if isinstance(found, Mapping) else None
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, list) and len(row) == 3 and isinstance(row[2], float) and graph.has_edge(*map(str, row[:2])):
            graph.edges[str(row[0]), str(row[1])]["stability"] = row[2]


def circuit_of(graph: nx.DiGraph) -> Circuit:
    """The circuit of a graph from `graph_of`; raises `InputError` for any other graph."""
    try:
        places, manifest = (parse_json(graph.graph[name], f"its {name}") for name in ("places", "manifest"))
        nodes = {
            Node.parse(name): NodeScore(float(data["effect"]), float(data.get("standard_error", math.nan)))
            for name, data in graph.nodes(data=True)
            if data["kind"] in ("feature", "error")
        }
        edges = {(endpoint(a), endpoint(b)): float(data["weight"]) for a, b, data in graph.edges(data=True)}
        found = Circuit(nodes, edges, tuple(places), graph.graph["aggregate"], manifest)
        shown, usual = (dict(one.nodes(data="label")) for one in (graph, graph_of(found)))
        labels = {endpoint(name): label for name, label in shown.items() if label not in (None, usual.get(name))}
        groups: dict[str, list[Node]] = {}
        for name, data in graph.nodes(data=True):
            if data.get("group") is not None:
                groups.setdefault(data["group"], []).append(Node.parse(name))
        return replace(found, labels=labels, groups=groups)
    except InputError:
        raise
    except KeyError as error:
        raise InputError(f"the graph is not a circuit's: it lacks {shortened(error.args[0])}") from None
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f"the graph is not a circuit's: {type(error).__name__} {error}") from None


def metric_name(manifest: Mapping[str, Any]) -> str:
    """What effects are measured in, such as "logit difference"; "metric F" if a trace did not record it."""
    task = manifest.get("task")
    name = task.get("metric") if isinstance(task, Mapping) else None
    return name.replace("_", " ") if isinstance(name, str) and name else "metric F"


def words_of(manifest: Mapping[str, Any]) -> Mapping[str, str]:
    """Place -> words, if a trace recorded them."""
    task = manifest.get("task")
    words = task.get("words") if isinstance(task, Mapping) else None
    return {k: v for k, v in words.items() if isinstance(v, str)} if isinstance(words, Mapping) else {}


def _node_attributes(node: Node, score: NodeScore, words: Mapping[str, str]) -> dict[str, Any]:
    place = "" if node.place is None else str(node.place)
    attributes = {
        "kind": "error" if node.is_error else "feature",
        "site": str(node.site),
        "site_kind": node.site.kind,
        "layer": node.site.layer,
        "feature": -1 if node.feature is None else node.feature,
        "place": place,
        "words": words.get(place, ""),
        "effect": score.effect,
        "label": str(node),
    }
    return attributes if math.isnan(score.standard_error) else {**attributes, "standard_error": score.standard_error}


def _end_attributes(end: str, words: Mapping[str, str]) -> dict[str, Any]:
    kind, _, place = end.partition("@")
    nowhere = {"site": "", "site_kind": "", "layer": -1, "feature": -1}
    here = words.get(place, "")
    label = f"{end}: {here}" if here else end
    return {"kind": kind, **nowhere, "place": place, "words": here, "effect": 0.0, "label": label}
