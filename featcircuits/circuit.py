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
| node | label | what a viewer shows |
| edge | weight, sign | mean effect of the edge; 1 or -1 |
| graph | aggregate, places, manifest | JSON texts |
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from featcircuits.errors import InputError
from featcircuits.naming import check_place
from featcircuits.nodes import METRIC, Node, Place, input_node
from featcircuits.reading import parse_json
from featcircuits.sites import Site
from featcircuits.writing import write_whole

if TYPE_CHECKING:
    import networkx as nx

Endpoint = Node | str
"""A node, the metric, or an input (`featcircuits.nodes.input_node`)."""

FORMAT = 2


class NodeScore(NamedTuple):
    """A node's mean effect on m, and its standard error over examples (NaN where unknown)."""

    effect: float
    standard_error: float = math.nan


@dataclass(frozen=True)
class Circuit:
    """Nodes with their effects, edges with theirs, the places nodes can stand at, and provenance.

    Nodes stand in the order in which a circuit takes them, the one to keep longest first: curves over
    sizes follow it, and it is saved. A traced circuit has them as its selection rule does.
    """

    nodes: Mapping[Node, NodeScore]
    edges: Mapping[tuple[Endpoint, Endpoint], float]
    places: tuple[Place, ...]
    aggregate: str
    manifest: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        for place in self.places:
            check_place(place)
        places = set(self.places)
        for node, score in self.nodes.items():
            if node.place not in places:
                raise InputError(f"circuit: node {node} stands at a place that is not among {list(self.places)}")
            if not math.isfinite(score.effect):
                raise InputError(f"circuit: the effect of {node} is {score.effect}")
        inputs = {input_node(place) for place in self.places}
        for (source, target), weight in self.edges.items():
            if not math.isfinite(weight):
                raise InputError(f"circuit: the weight of {source} -> {target} is {weight}")
            if not (source in self.nodes or source in inputs) or not (target in self.nodes or target == METRIC):
                raise InputError(f"circuit: edge {source} -> {target} has an end that is not in the circuit")
            if isinstance(source, Node) and isinstance(target, Node) and not source.site < target.site:
                raise InputError(f"circuit: edge {source} -> {target} runs against the forward order")

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
        for node, score in self.nodes.items():
            graph.add_node(str(node), **_node_attributes(node, score))
        for end in dict.fromkeys(end for edge in self.edges for end in edge if isinstance(end, str)):
            graph.add_node(end, **_end_attributes(end))
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
            edges = {(_end(a), _end(b)): float(data["weight"]) for a, b, data in graph.edges(data=True)}
            return cls(
                nodes, edges, places, graph.graph["aggregate"], parse_json(graph.graph["manifest"], "its manifest")
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"the graph is not a circuit's: {type(error).__name__} {error}") from None

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write one safetensors file, whole or not at all; the same circuit gives the same bytes."""
        from safetensors.numpy import save

        names = [str(node) for node in self.nodes]
        ends = names + sorted({end for edge in self.edges for end in edge if isinstance(end, str)})
        index = {end: number for number, end in enumerate(ends)}
        record = {
            "format": FORMAT, "aggregate": self.aggregate, "places": self.places,
            "nodes": names, "ends": ends[len(names) :], "manifest": self.manifest,
        }  # fmt: skip
        scores = np.array([tuple(score) for score in self.nodes.values()], dtype=np.float64).reshape(-1, 2)
        pairs = np.array([[index[str(end)] for end in edge] for edge in self.edges], dtype=np.int64).reshape(-1, 2)
        tensors = {"scores": scores, "edges": pairs, "weights": np.array([*self.edges.values()], dtype=np.float64)}
        write_whole(path, save(tensors, {"circuit": json.dumps(record, sort_keys=True)}), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> Circuit:
        """Read a saved circuit; a damaged, foreign or newer file is an `InputError`."""
        from safetensors import SafetensorError, safe_open

        path = Path(path)
        if not path.is_file():
            raise InputError(f"{path}: no such circuit file")
        try:
            with safe_open(path, "np") as file:
                record = parse_json((file.metadata() or {})["circuit"], "its record")
                arrays = {name: file.get_tensor(name) for name in ("scores", "edges", "weights")}
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise InputError(f"{path}: not a circuit file, or a damaged one ({error})") from None
        try:
            return cls._from_record(record, **arrays)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
            raise InputError(f"{path}: a damaged circuit file ({type(error).__name__}: {error})") from None

    @classmethod
    def _from_record(cls, record: Any, scores: np.ndarray, edges: np.ndarray, weights: np.ndarray) -> Circuit:
        if record.get("format") != FORMAT:
            raise InputError(f"circuit format {record.get('format')!r}; this version reads format {FORMAT}")
        names: list[str] = record["nodes"]
        if scores.shape != (len(names), 2) or edges.shape != (len(weights), 2) or weights.ndim != 1:
            raise InputError("damaged circuit: its tables do not fit each other")
        ends = [*map(Node.parse, names), *map(str, record["ends"])]
        if len(set(ends)) != len(ends):
            raise InputError("damaged circuit: a node occurs twice")
        if len(edges) and not (edges.min() >= 0 and edges.max() < len(ends)):
            raise InputError("damaged circuit: an edge names a node that is not there")
        nodes = {Node.parse(name): NodeScore(*pair) for name, pair in zip(names, scores.tolist(), strict=True)}
        pairs = ((ends[a], ends[b]) for a, b in edges.tolist())
        places = tuple(record["places"])
        return cls(
            nodes, dict(zip(pairs, weights.tolist(), strict=True)), places, record["aggregate"], record["manifest"]
        )


def _node_attributes(node: Node, score: NodeScore) -> dict[str, Any]:
    attributes = {
        "kind": "error" if node.is_error else "feature",
        "site": str(node.site),
        "site_kind": node.site.kind,
        "layer": node.site.layer,
        "feature": -1 if node.feature is None else node.feature,
        "place": "" if node.place is None else str(node.place),
        "effect": score.effect,
        "label": str(node),
    }
    return attributes if math.isnan(score.standard_error) else {**attributes, "standard_error": score.standard_error}


def _end_attributes(end: str) -> dict[str, Any]:
    kind, _, place = end.partition("@")
    nowhere = {"site": "", "site_kind": "", "layer": -1, "feature": -1}
    return {"kind": kind, **nowhere, "place": place, "effect": 0.0, "label": end}


def _end(name: str) -> Endpoint:
    return name if name == METRIC or name.partition("@")[0] == "input" else Node.parse(name)
