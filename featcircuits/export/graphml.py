"""GraphML for yEd, Cytoscape, igraph and graph-tool; it carries everything, layout and provenance included."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING

from featcircuits.export.files import write_export
from featcircuits.files.xml import xml_graph

if TYPE_CHECKING:
    import networkx as nx

    from featcircuits.circuit.circuit import Circuit

_GRAPHML = "http://graphml.graphdrawing.org/xmlns"


def graphml(circuit: Circuit | nx.DiGraph, path: str | Path, *, overwrite: bool = False) -> None:
    """Write the circuit as GraphML; raises `InputError` if the file already exists."""
    from io import BytesIO

    import networkx as nx

    from featcircuits.circuit.layout import drawn

    buffer = BytesIO()
    nx.write_graphml_xml(xml_graph(drawn(circuit)), buffer)
    write_export(path, _own_data_first(buffer.getvalue()), overwrite)


def _own_data_first(document: bytes) -> bytes:
    """Move the graph's attributes to the front, since some readers give attributes at the end to the last edge."""
    ET.register_namespace("", _GRAPHML)
    root = ET.fromstring(document)
    for graph in root.iter(f"{{{_GRAPHML}}}graph"):
        own = graph.findall(f"{{{_GRAPHML}}}data")
        graph[:] = [*own, *(element for element in graph if element not in own)]
    ET.indent(root, " ")
    return ET.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"
