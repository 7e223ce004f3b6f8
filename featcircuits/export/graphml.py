"""GraphML, for yEd, Cytoscape and igraph; carries everything, provenance included."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from featcircuits.circuit import Circuit


def graphml(circuit: Circuit, path: str | Path, *, overwrite: bool = False) -> None:
    """Write the circuit; raises `InputError` where the file exists already."""
    from io import BytesIO

    import networkx as nx

    from featcircuits.export.files import write_export

    buffer = BytesIO()
    nx.write_graphml(circuit.to_networkx(), buffer)
    write_export(path, buffer.getvalue(), overwrite)
