"""Text that XML 1.0 can hold."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import networkx as nx

_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_REPLACEMENT = "\ufffd"


def xml_text(text: str) -> str:
    """The text with every character that XML 1.0 forbids, such as control characters, replaced."""
    return _FORBIDDEN.sub(_REPLACEMENT, text)


def xml_graph(graph: nx.DiGraph) -> nx.DiGraph:
    """The graph with text that XML can hold in all names and attributes."""
    import networkx as nx

    clean = nx.DiGraph(**_clean(graph.graph))
    clean.add_nodes_from((xml_text(name), _clean(data)) for name, data in graph.nodes(data=True))
    clean.add_edges_from((xml_text(a), xml_text(b), _clean(data)) for a, b, data in graph.edges(data=True))
    return clean


def _clean(data: dict[str, Any]) -> dict[str, Any]:
    return {key: xml_text(value) if isinstance(value, str) else value for key, value in data.items()}
