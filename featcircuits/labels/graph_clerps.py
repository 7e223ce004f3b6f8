"""Labels in attribution-graph JSON, as circuit-tracer and Neuronpedia keep them: the `clerp` of each node."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from featcircuits.errors import InputError, shortened
from featcircuits.files.reading import read_json
from featcircuits.files.writing import write_whole
from featcircuits.inputs.names import one_line
from featcircuits.labels.places import site_at
from featcircuits.labels.record import LONGEST_LABEL, Label, texts
from featcircuits.model.sites import Site

FORM = "circuit-tracer"
ROWS = "rows"
"""In the generation settings of a graph that featcircuits wrote: row -> site."""
_FEATURE = re.compile(r"(?P<row>\d{1,5})_(?P<feature>\d{1,18})_\d{1,9}")


def read(path: Path, at: str | None) -> list[Label]:
    """A label of each feature once for each text. `at`: where a layer's transcoders write, by default "mlp_{layer}"."""
    graph = _graph(path)
    found = {}
    for node, site, feature in _features(graph, at):
        text = one_line(node["clerp"], LONGEST_LABEL) if isinstance(node.get("clerp"), str) else ""
        if text:
            found[site, feature, text] = Label(site, feature, text, FORM)
    return list(found.values())


def write(labels: Sequence[Label], path: Path, into: str | None, *, overwrite: bool = False) -> None:
    """`into`: the graph's file; a copy of it is written with the labels."""
    if into is None:
        raise InputError("the labels of circuit-tracer are part of a graph; give into (--into) with the graph's file")
    graph, known = _graph(Path(into)), texts(labels)
    for node, site, feature in _features(graph, None):
        node["clerp"] = known.get(f"{site}/{feature}", node.get("clerp", ""))
    write_whole(path, (json.dumps(graph) + "\n").encode(), overwrite=overwrite)


def _graph(path: Path) -> dict[str, Any]:
    graph = read_json(path, "graph file")
    nodes = graph.get("nodes") if isinstance(graph, dict) else None
    if not isinstance(nodes, list) or not all(isinstance(node, dict) for node in nodes):
        raise InputError(f"{shortened(path, 300)}: not an attribution graph; it has no list of nodes")
    return graph


def _features(graph: Mapping[str, Any], at: str | None) -> Iterator[tuple[dict[str, Any], Site, int]]:
    """Nodes that are features, each with its site and number."""
    rows = _rows(graph)
    for node in graph["nodes"]:
        match = _FEATURE.fullmatch(str(node.get("node_id")))
        if match and "transcoder" in str(node.get("feature_type")):
            site = rows.get(match["row"]) or site_at(at or "mlp_{layer}", int(match["row"]))
            yield node, site, int(match["feature"])


def _rows(graph: Mapping[str, Any]) -> dict[str, Site]:
    found: Any = graph
    for name in ("metadata", "generation_settings", ROWS):
        found = found.get(name) if isinstance(found, Mapping) else None
    return {row: Site.parse(site) for row, site in found.items()} if isinstance(found, Mapping) else {}
