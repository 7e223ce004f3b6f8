"""GEXF for Gephi, with colours by sign, sizes by effect and a layered layout.

GEXF has no place for a graph's own attributes: places and provenance stay behind, in the run's
manifest. GraphML and JSON carry them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from featcircuits.circuit import Circuit


def gexf(circuit: Circuit, path: str | Path, *, overwrite: bool = False) -> None:
    """Write the circuit; raises `InputError` where the file exists already."""
    from io import BytesIO

    import networkx as nx

    from featcircuits.export.files import write_export
    from featcircuits.export.layout import with_viz

    buffer = BytesIO()
    nx.write_gexf(with_viz(circuit, circuit.to_networkx()), buffer)
    write_export(path, buffer.getvalue(), overwrite)
