"""JSON node-link data, the form of networkx; it carries everything, layout and provenance included."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import networkx as nx

    from featcircuits.circuit.circuit import Circuit


def node_link(circuit: Circuit | nx.DiGraph, path: str | Path, *, overwrite: bool = False) -> None:
    """Write the circuit as JSON; raises `InputError` if the file already exists."""
    import json

    import networkx as nx

    from featcircuits.circuit.layout import drawn
    from featcircuits.export.files import write_export

    data = nx.node_link_data(drawn(circuit), edges="edges")
    write_export(path, (json.dumps(data, indent=1) + "\n").encode(), overwrite)
