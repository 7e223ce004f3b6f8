"""The circuit: nodes with effects, edges with weights, and their provenance."""

from __future__ import annotations

import json
import math
import os
import sys
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from featcircuits.circuit.contraction import checked_groups, contracted
from featcircuits.errors import InputError, check_file, first_line, shortened
from featcircuits.files.reading import parse_json
from featcircuits.files.writing import write_whole
from featcircuits.inputs.keyed import Keyed
from featcircuits.inputs.names import check_name, one_line
from featcircuits.model.nodes import METRIC, Endpoint, Node, Place, checked_places, endpoint, input_node
from featcircuits.model.sites import Site

if TYPE_CHECKING:
    import networkx as nx

FORMAT = 2


class NodeScore(NamedTuple):
    """A node's mean effect on m, and its standard error over examples (NaN if unknown)."""

    effect: float
    standard_error: float = math.nan


@dataclass(frozen=True)
class Circuit:
    """Nodes with their effects, edges with theirs, the places that nodes can have, and provenance.

    Nodes are in the order in which smaller circuits take them, the first to keep first; curves over
    sizes follow this order, and it is saved. In a traced circuit it is the order of the selection rule. Names can
    replace nodes, here and in look-ups: `circuit.nodes["resid_2/303@5"]`, `circuit.edges["embed/3@0", "metric"]`.
    Raises `InputError` for a circuit that contradicts itself.
    """

    nodes: Mapping[Node, NodeScore]
    edges: Mapping[tuple[Endpoint, Endpoint], float]
    places: tuple[Place, ...]
    aggregate: str
    manifest: Mapping[str, Any] = field(default_factory=dict, compare=False)
    labels: Mapping[Endpoint, str] = field(default_factory=dict)
    """Texts that viewers show in place of the names of some nodes, inputs, or the metric. A feature's name without a
    place means its nodes at all places."""
    groups: Mapping[str, Collection[Node | str]] = field(default_factory=dict)
    """Named sets of nodes that do not overlap; names of nodes can replace nodes."""

    def __post_init__(self) -> None:
        for name in ("nodes", "edges", "manifest", "labels", "groups"):
            if not isinstance(getattr(self, name), Mapping):
                raise InputError(f"circuit: {name} is {shortened(getattr(self, name))}; it must be a mapping")
        object.__setattr__(self, "nodes", Keyed(Node.parse, "node", self.nodes))
        object.__setattr__(self, "edges", Keyed(_edge, "edge", self.edges))
        object.__setattr__(self, "labels", Keyed(endpoint, "node", self._at_all_places(self.labels)))
        object.__setattr__(self, "groups", checked_groups(self.groups, self.nodes))
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

    def _at_all_places(self, labels: Mapping[Any, str]) -> dict[Endpoint, str]:
        """A feature's label is that of its nodes at all places, but for those that have their own."""
        given = {endpoint(name): label for name, label in labels.items()}
        features = {end for end in given if isinstance(end, Node) and end.place is None and end not in self.nodes}
        spread = {node: given[own] for node in self.nodes if (own := node._replace(place=None)) in features}
        found = {node._replace(place=None) for node in spread}
        return {**spread, **{end: label for end, label in given.items() if end not in found}}

    @property
    def n_nodes(self) -> int:
        """The number of features and error nodes; the metric and inputs do not count."""
        return len(self.nodes)

    @property
    def n_edges(self) -> int:
        """The number of edges, those to the metric and from inputs included."""
        return len(self.edges)

    def nodes_at(self, site: str | Site) -> list[Node]:
        """The nodes at a site, in the circuit's order."""
        site = Site.parse(site)
        return [node for node in self.nodes if node.site == site]

    def _repr_html_(self) -> str:
        """What notebooks show."""
        from featcircuits.circuit.html import circuit_html

        return circuit_html(self)

    def to_networkx(self) -> nx.DiGraph:
        """The circuit as a graph, with the attributes in the table at the top of this module."""
        from featcircuits.circuit.graph import graph_of

        return graph_of(self)

    @classmethod
    def from_networkx(cls, graph: nx.DiGraph) -> Circuit:
        """The circuit of a graph from `to_networkx`; raises `InputError` for any other graph."""
        from featcircuits.circuit.graph import circuit_of

        return circuit_of(graph)

    def labelled(self, labels: Mapping[Any, str]) -> Circuit:
        """With these labels in place of earlier ones, of nodes or of features at all places.

        Labels of what the circuit does not have are left out; what they hold besides one line of
        printable text is replaced, and those of more than 100 characters are cut.
        """
        features = {node._replace(place=None) for node in self.nodes}
        ends = {*self.nodes, *features, *map(input_node, self.places), METRIC}
        found = {end: one_line(label) for name, label in labels.items() if (end := endpoint(name)) in ends}
        known = {end: label for end, label in found.items() if label}
        return replace(self, labels={**self.labels, **self._at_all_places(known)})

    def with_groups(self, groups: Mapping[str, Collection[Node | str]]) -> Circuit:
        """With these groups in place of earlier ones; raises `InputError` as `grouped` does."""
        return replace(self, groups=groups)

    def grouped(self, groups: Mapping[str, Collection[Node | str]] | None = None) -> nx.DiGraph:
        """The graph in which each group is one node, whose effect and edges are sums; every exporter takes it.

        `groups`: name -> nodes, in place of the circuit's own. Raises `InputError` for groups that overlap, and for
        nodes that the circuit does not have.
        """
        return contracted(self if groups is None else replace(self, groups=groups))

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
            **({"groups": {name: [*map(str, own)] for name, own in self.groups.items()}} if self.groups else {}),
        }  # fmt: skip
        scores = np.array([tuple(score) for score in self.nodes.values()], dtype=np.float64).reshape(-1, 2)
        pairs = np.array([[index[str(end)] for end in edge] for edge in self.edges], dtype=np.int64).reshape(-1, 2)
        tensors = {"scores": scores, "edges": pairs, "weights": np.array([*self.edges.values()], dtype=np.float64)}
        write_whole(path, save(tensors, {"circuit": json.dumps(record, sort_keys=True)}), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> Circuit:
        """Read a saved circuit; raises `InputError` for a damaged, foreign or newer file."""
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
            record.get("groups", {}),
        )


_TABLES = {"scores": "float64", "edges": "int64", "weights": "float64"}
"""The tensors of a circuit's file, and the types of their numbers."""
_RECORD = {"format": int, "nodes": list, "ends": list, "places": list, "aggregate": str, "manifest": dict}


def _check_record(record: Any) -> None:
    """Raise `InputError` for a record of another format, or values of another type."""
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
    """Raise `InputError` for a manifest that a file could not give back unchanged."""
    try:
        text = json.dumps(manifest)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"circuit: manifest holds what JSON cannot ({first_line(error)}); leave it out") from None
    if parse_json(text, "circuit: manifest") != manifest:
        raise InputError(
            "circuit: manifest does not read back unchanged; use texts as keys, and lists instead of tuples"
        )


_TYPES = {int: "number", list: "list", str: "text", dict: "mapping"}


def _edge(pair: Any) -> tuple[Endpoint, Endpoint]:
    if isinstance(pair, tuple) and len(pair) == 2:
        return endpoint(pair[0]), endpoint(pair[1])
    raise InputError(f"{shortened(pair)} is not an edge; give a pair (source, target)")


def _check_node(node: Node, score: Any, places: set[Place]) -> None:
    if node.place not in places:
        raise InputError(f"circuit: node {node} is at a place that is not among {shortened(list(places))}")
    if not (node.feature is None or (type(node.feature) is int and node.feature >= 0)):
        raise InputError(f"circuit: node {node}: {shortened(node.feature)} is not the number of a feature")
    if not isinstance(score, NodeScore):
        raise InputError(f"circuit: the score of {node} is {shortened(score)}; give NodeScore(effect, standard_error)")
    if not _finite(score.effect):
        raise InputError(f"circuit: the effect of {node} is {shortened(score.effect)}")
    error = score.standard_error
    if not (_finite(error) and error >= 0) and error == error:
        raise InputError(
            f"circuit: the standard error of {node} is {shortened(error)}; give a number from 0 on, or NaN"
        )


_LARGEST = sys.float_info.max


def _finite(value: Any) -> bool:
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    return number and bool(-_LARGEST <= value <= _LARGEST)  # also of whole numbers that no float holds
