"""GEXF for Gephi, Tulip, sigma.js and others, with colours by sign, sizes by effect and a layered layout.

It writes version 1.2draft, with the types that it shares with 1.3 and that every reader knows: "integer", "double" and
"string". GEXF has no place for a graph's own attributes, so places and provenance are only in the run's manifest;
GraphML and JSON carry them.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcircuits.export.files import write_export
from featcircuits.files.xml import xml_graph

if TYPE_CHECKING:
    import networkx as nx

    from featcircuits.circuit.circuit import Circuit

_GEXF = "http://www.gexf.net/1.2draft"
_VIZ = f"{_GEXF}/viz"
_TYPES = {int: "integer", float: "double", str: "string"}
_DRAWN = ("label", "x", "y", "size", "color", "thickness", "weight")
"""Attributes for which GEXF has its own elements or XML attributes."""


def gexf(circuit: Circuit | nx.DiGraph, path: str | Path, *, overwrite: bool = False) -> None:
    """Write the circuit as GEXF; raises `InputError` if the file already exists."""
    from featcircuits.circuit.layout import drawn

    write_export(path, _document(xml_graph(drawn(circuit))), overwrite)


def _document(graph: nx.DiGraph) -> bytes:
    root = ET.Element("gexf", {"xmlns": _GEXF, "xmlns:viz": _VIZ, "version": "1.2"})
    ET.SubElement(ET.SubElement(root, "meta"), "creator").text = "featcircuits"
    inside = ET.SubElement(root, "graph", {"defaultedgetype": "directed", "mode": "static", "idtype": "string"})
    nodes, edges = list(graph.nodes(data=True)), list(graph.edges(data=True))
    of_nodes = _declared(inside, "node", [data for _, data in nodes])
    of_edges = _declared(inside, "edge", [data for _, _, data in edges])
    listed = ET.SubElement(inside, "nodes")
    for name, data in nodes:
        _node(listed, name, data, of_nodes)
    listed = ET.SubElement(inside, "edges")
    for number, (source, target, data) in enumerate(edges):
        edge = {"id": str(number), "source": source, "target": target, "weight": repr(float(data["weight"]))}
        _edge(ET.SubElement(listed, "edge", edge), data, of_edges)
    ET.indent(root, " ")
    return ET.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def _declared(graph: ET.Element, kind: str, rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Attribute name -> the id under which it is declared."""
    types = {key: _TYPES[type(value)] for data in rows for key, value in data.items() if key not in _DRAWN}
    if not types:
        return {}
    listed = ET.SubElement(graph, "attributes", {"class": kind, "mode": "static"})
    for number, (title, what) in enumerate(types.items()):
        ET.SubElement(listed, "attribute", {"id": str(number), "title": title, "type": what})
    return {title: str(number) for number, title in enumerate(types)}


def _values(element: ET.Element, data: Mapping[str, Any], declared: Mapping[str, str]) -> None:
    listed = ET.SubElement(element, "attvalues")
    for key, number in declared.items():
        if key in data:
            ET.SubElement(listed, "attvalue", {"for": number, "value": str(data[key])})


def _node(nodes: ET.Element, name: str, data: Mapping[str, Any], declared: Mapping[str, str]) -> None:
    node = ET.SubElement(nodes, "node", {"id": name, "label": data["label"]})
    _values(node, data, declared)
    ET.SubElement(node, "viz:size", {"value": repr(data["size"])})
    ET.SubElement(node, "viz:position", {"x": repr(data["x"]), "y": repr(data["y"]), "z": "0.0"})
    ET.SubElement(node, "viz:color", _channels(data["color"]))


def _edge(edge: ET.Element, data: Mapping[str, Any], declared: Mapping[str, str]) -> None:
    _values(edge, data, declared)
    ET.SubElement(edge, "viz:thickness", {"value": repr(data["thickness"])})
    ET.SubElement(edge, "viz:color", _channels(data["color"]))


def _channels(color: str) -> dict[str, str]:
    return {name: str(int(color[start : start + 2], 16)) for name, start in (("r", 1), ("g", 3), ("b", 5))}
