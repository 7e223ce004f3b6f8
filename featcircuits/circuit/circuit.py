"""The circuit: scored nodes, weighted edges, and where they came from.

`to_networkx` gives a DiGraph whose node ids are node names. Its attributes, which every export
format carries:

| on | attribute | meaning |
|---|---|---|
| node | kind | "feature", "error", "input" or "metric" |
| node | site, site_kind, layer | "resid_3", "resid", 3; "", "", -1 for the metric and inputs |
| node | feature | the feature's number; -1 where there is none |
| node | place | position or role as text; "" where there is none |
| node | effect | mean effect on m; 0.0 for the metric and inputs |
| node | standard_error | of the effect; left out where it is unknown |
| node | words | the clean prompts' words at its place, the most frequent first; "" where they are not known |
| node | label | what a viewer shows: the circuit's own label, else the node's name (inputs: and their words) |
| edge | weight, sign | mean effect of the edge; 1 or -1 |
| graph | aggregate, places, manifest | JSON texts |
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from featcircuits.errors import InputError, check_file, first_line, shortened
from featcircuits.files.reading import parse_json
from featcircuits.files.writing import write_whole
from featcircuits.inputs.keyed import Keyed
from featcircuits.inputs.names import check_name
from featcircuits.model.nodes import METRIC, Endpoint, Node, Place, checked_places, endpoint, input_node
from featcircuits.model.sites import Site

if TYPE_CHECKING:
    import networkx as nx

FORMAT = 2


class NodeScore(NamedTuple):
    """A node's mean effect on m, and its standard error over examples (NaN where unknown)."""

    effect: float
    standard_error: float = math.nan


@dataclass(frozen=True)
class Circuit:
    """Nodes with their effects, edges with theirs, the places nodes can stand at, and provenance.

    Nodes stand in the order in which a circuit takes them, the one to keep longest first: curves over
    sizes follow it, and it is saved. A traced circuit has them as its selection rule does. Names stand for nodes,
    here and in look-ups: `circuit.nodes["resid_2/303@5"]`, `circuit.edges["embed/3@0", "metric"]`.
    Raises `InputError` for a circuit that contradicts itself.
    """

    nodes: Mapping[Node, NodeScore]
    edges: Mapping[tuple[Endpoint, Endpoint], float]
    places: tuple[Place, ...]
    aggregate: str
    manifest: Mapping[str, Any] = field(default_factory=dict, compare=False)
    labels: Mapping[Endpoint, str] = field(default_factory=dict)
    """What viewers show in place of the names of some nodes, inputs, or the metric."""

    def __post_init__(self) -> None:
        for name in ("nodes", "edges", "manifest", "labels"):
            if not isinstance(getattr(self, name), Mapping):
                raise InputError(f"circuit: {name} is {shortened(getattr(self, name))}; it must be a mapping")
        object.__setattr__(self, "nodes", Keyed(Node.parse, "node", self.nodes))
        object.__setattr__(self, "edges", Keyed(_edge, "edge", self.edges))
        object.__setattr__(self, "labels", Keyed(endpoint, "node", self.labels))
        object.__setattr__(self, "places", checked_places(self.places, self.aggregate))
        places = set(self.places)
        for node, score in self.nodes.items():
            _check_node(node, score, places)
        inputs = {input_node(place) for place in self.places}
        for (source, target), weight in self.edges.items():
            if not _finite(weight):
                raise InputError(f"circuit: the weight of {source} -> {target} is {shortened(weight)}")
            if not (source in self.nodes or source in inputs) or not (target in self.nodes or target == METRIC):
                raise InputError(f"circuit: edge {source} -> {target} has an end that is not in the circuit")
            if isinstance(source, Node) and isinstance(target, Node) and not source.site < target.site:
                raise InputError(f"circuit: edge {source} -> {target} runs against the forward order")
        for end, label in self.labels.items():
            check_name(label, f"circuit: the label of {end}")
            if not (end in self.nodes or end in inputs or end == METRIC):
                raise InputError(f"circuit: {end} has a label, but is not in the circuit")

    @property
    def n_nodes(self) -> int:
        """Features and errors; the metric and inputs are not counted."""
        return len(self.nodes)

    @property
    def n_edges(self) -> int:
        return len(self.edges)

    def nodes_at(self, site: str | Site) -> list[Node]:
        site = Site.parse(site)
        return [node for node in self.nodes if node.site == site]

    def to_networkx(self) -> nx.DiGraph:
        """The circuit as a graph; attributes as in the table at the top of this module."""
        import networkx as nx

        graph = nx.DiGraph(
            aggregate=self.aggregate, places=json.dumps(self.places), manifest=json.dumps(self.manifest, sort_keys=True)
        )
        words = _words(self.manifest)
        for node, score in self.nodes.items():
            graph.add_node(str(node), **_node_attributes(node, score, words))
        for end in dict.fromkeys(end for edge in self.edges for end in edge if isinstance(end, str)):
            graph.add_node(end, **_end_attributes(end, words))
        for end, label in self.labels.items():
            if str(end) in graph:
                graph.nodes[str(end)]["label"] = label
        for (source, target), weight in self.edges.items():
            graph.add_edge(str(source), str(target), weight=weight, sign=1 if weight >= 0 else -1)
        return graph

    @classmethod
    def from_networkx(cls, graph: nx.DiGraph) -> Circuit:
        """The inverse of `to_networkx`; raises `InputError` for a graph that is not a circuit's."""
        try:
            places = tuple(parse_json(graph.graph["places"], "its places"))
            nodes = {
                Node.parse(name): NodeScore(float(data["effect"]), float(data.get("standard_error", math.nan)))
                for name, data in graph.nodes(data=True)
                if data["kind"] in ("feature", "error")
            }
            edges = {(endpoint(a), endpoint(b)): float(data["weight"]) for a, b, data in graph.edges(data=True)}
            found = cls(
                nodes, edges, places, graph.graph["aggregate"], parse_json(graph.graph["manifest"], "its manifest")
            )
            shown, usual = (dict(one.nodes(data="label")) for one in (graph, found.to_networkx()))
            labels = {endpoint(name): label for name, label in shown.items() if label not in (None, usual.get(name))}
            return replace(found, labels=labels)
        except InputError:
            raise
        except KeyError as error:
            raise InputError(f"the graph is not a circuit's: it lacks {shortened(error.args[0])}") from None
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(f"the graph is not a circuit's: {type(error).__name__} {error}") from None

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write one safetensors file, whole or not at all; the same circuit gives the same bytes."""
        from safetensors.numpy import save

        _check_path(path)
        _check_manifest(self.manifest)
        names = [str(node) for node in self.nodes]
        ends = names + sorted({end for edge in self.edges for end in edge if isinstance(end, str)})
        index = {end: number for number, end in enumerate(ends)}
        record = {
            "format": FORMAT, "aggregate": self.aggregate, "places": self.places,
            "nodes": names, "ends": ends[len(names) :], "manifest": self.manifest,
            **({"labels": {str(end): label for end, label in self.labels.items()}} if self.labels else {}),
        }  # fmt: skip
        scores = np.array([tuple(score) for score in self.nodes.values()], dtype=np.float64).reshape(-1, 2)
        pairs = np.array([[index[str(end)] for end in edge] for edge in self.edges], dtype=np.int64).reshape(-1, 2)
        tensors = {"scores": scores, "edges": pairs, "weights": np.array([*self.edges.values()], dtype=np.float64)}
        write_whole(path, save(tensors, {"circuit": json.dumps(record, sort_keys=True)}), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> Circuit:
        """Read a saved circuit; a damaged, foreign or newer file is an `InputError`."""
        from safetensors import SafetensorError, safe_open

        _check_path(path)
        check_file(path, "circuit file")
        shown = shortened(Path(path), 300)
        try:
            with safe_open(path, "np") as file:
                text = (file.metadata() or {})["circuit"]
                arrays = {name: file.get_tensor(name) for name in _TABLES}
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{shown}: not a circuit file, or a damaged one ({first_line(error)})") from None
        record = parse_json(text, shown)
        try:
            return cls._from_record(record, **arrays)
        except InputError as error:
            raise InputError(f"{shown}: {error}") from None

    @classmethod
    def _from_record(cls, record: Any, scores: np.ndarray, edges: np.ndarray, weights: np.ndarray) -> Circuit:
        _check_record(record)
        for (name, kind), table in zip(_TABLES.items(), (scores, edges, weights), strict=True):
            if table.dtype != kind:
                raise InputError(f"damaged circuit: its {name} are {table.dtype} numbers, and must be {kind}")
        names: list[str] = record["nodes"]
        if weights.ndim != 1 or scores.shape != (len(names), 2) or edges.shape != (len(weights), 2):
            raise InputError("damaged circuit: its tables do not fit each other")
        parsed, others = [Node.parse(name) for name in names], [endpoint(name) for name in record["ends"]]
        ends = [*parsed, *others]
        if len(set(ends)) != len(ends):
            raise InputError("damaged circuit: a node occurs twice")
        if len(edges) and not (edges.min() >= 0 and edges.max() < len(ends)):
            raise InputError("damaged circuit: an edge names a node that is not there")
        pairs = [(ends[a], ends[b]) for a, b in edges.tolist()]
        if twice := [pair for pair, count in Counter(pairs).items() if count > 1]:
            raise InputError(f"damaged circuit: edge {twice[0][0]} -> {twice[0][1]} occurs twice")
        return cls(
            {node: NodeScore(*pair) for node, pair in zip(parsed, scores.tolist(), strict=True)},
            dict(zip(pairs, weights.tolist(), strict=True)),
            tuple(record["places"]),
            record["aggregate"],
            record["manifest"],
            record.get("labels", {}),
        )


_TABLES = {"scores": "float64", "edges": "int64", "weights": "float64"}
"""The tensors of a circuit's file and their numbers"""
_RECORD = {"format": int, "nodes": list, "ends": list, "places": list, "aggregate": str, "manifest": dict}


def _check_record(record: Any) -> None:
    """Refuse a record of another format, and values of another type."""
    if not isinstance(record, dict):
        raise InputError(f"damaged circuit: its record is {shortened(record)}, and must be an object")
    if record.get("format") != FORMAT:
        raise InputError(f"circuit format {shortened(record.get('format'))}; this version reads format {FORMAT}")
    for name, kind in _RECORD.items():
        if type(record.get(name)) is not kind:
            raise InputError(
                f"damaged circuit: its {name} is {shortened(record.get(name))}, and must be a {_TYPES[kind]}"
            )


def _check_path(path: Any) -> None:
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"path is {shortened(path)}; give the path of a circuit file, such as 'circuit.safetensors'")


def _check_manifest(manifest: Mapping[str, Any]) -> None:
    """Refuse what a file could not give back."""
    try:
        text = json.dumps(manifest)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"circuit: manifest holds what JSON cannot ({first_line(error)}); leave it out") from None
    if parse_json(text, "circuit: manifest") != manifest:
        raise InputError("circuit: manifest does not read back as it is; use texts as keys, and lists for tuples")


_TYPES = {int: "number", list: "list", str: "text", dict: "mapping"}


def _edge(pair: Any) -> tuple[Endpoint, Endpoint]:
    if isinstance(pair, tuple) and len(pair) == 2:
        return endpoint(pair[0]), endpoint(pair[1])
    raise InputError(f"{shortened(pair)} is not an edge; give a pair (source, target)")


def _check_node(node: Node, score: Any, places: set[Place]) -> None:
    if node.place not in places:
        raise InputError(f"circuit: node {node} stands at a place that is not among {shortened(list(places))}")
    if not (node.feature is None or (type(node.feature) is int and node.feature >= 0)):
        raise InputError(f"circuit: node {node}: {shortened(node.feature)} is no feature's number")
    if not isinstance(score, NodeScore):
        raise InputError(f"circuit: the score of {node} is {shortened(score)}; give NodeScore(effect, standard_error)")
    if not _finite(score.effect):
        raise InputError(f"circuit: the effect of {node} is {shortened(score.effect)}")
    error = score.standard_error
    if not (_finite(error) and error >= 0) and error == error:
        raise InputError(
            f"circuit: the standard error of {node} is {shortened(error)}; it is at least 0, or NaN where unknown"
        )


_LARGEST = sys.float_info.max


def _finite(value: Any) -> bool:
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    return number and bool(-_LARGEST <= value <= _LARGEST)  # also of whole numbers that no float holds


def _words(manifest: Mapping[str, Any]) -> Mapping[str, str]:
    """Place -> words, where a trace recorded them."""
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
