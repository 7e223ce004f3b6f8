"""Exporters: circuits for other programs and for papers, with one small file per format and a row here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from featcircuits.export.gexf import gexf
from featcircuits.export.graphml import graphml
from featcircuits.export.heatmap import draw_heatmap, heatmap
from featcircuits.export.neuronpedia import neuronpedia
from featcircuits.export.node_link import node_link
from featcircuits.export.picture import draw_circuit, picture

__all__ = [
    "EXPORTERS", "Exporter", "draw_circuit", "draw_heatmap", "gexf", "graphml", "heatmap", "json", "neuronpedia",
    "picture",
]  # fmt: skip

json = node_link


class Exporter(NamedTuple):
    """A function `write(circuit, path, overwrite=False)`, and the suffix of what it writes."""

    write: Callable[..., None]
    suffix: str
    folder: bool = False
    """Whether it writes a folder, beside whose graph viewers look for dashboards of features."""
    stem: str = "circuit"
    """The name of the file in a run's folder, without the suffix."""
    takes_top: bool = False
    """Whether `write` also takes `top`, the number of nodes to show, since it does not show all by default."""
    of_ranking: bool = False
    """Whether a run's export shows all nodes with an effect instead of the circuit."""

    @property
    def file(self) -> str:
        """The name of the file in a run's folder."""
        return f"{self.stem}{self.suffix}"


EXPORTERS: Mapping[str, Exporter] = {
    "gexf": Exporter(gexf, ".gexf"),
    "graphml": Exporter(graphml, ".graphml"),
    "json": Exporter(node_link, ".json"),
    "neuronpedia": Exporter(neuronpedia, "-neuronpedia", folder=True),
    "svg": Exporter(picture, ".svg", takes_top=True),
    "pdf": Exporter(picture, ".pdf", takes_top=True),
    "png": Exporter(picture, ".png", takes_top=True),
    "heatmap.svg": Exporter(heatmap, ".svg", stem="heatmap", of_ranking=True),
    "heatmap.pdf": Exporter(heatmap, ".pdf", stem="heatmap", of_ranking=True),
    "heatmap.png": Exporter(heatmap, ".png", stem="heatmap", of_ranking=True),
}
"""Name -> exporter; an export is written whole or not at all, and never over an earlier one unless asked."""
