"""Exporters: circuits for other programs, with one small file per format and a row here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from featcircuits.export.gexf import gexf
from featcircuits.export.graphml import graphml
from featcircuits.export.neuronpedia import neuronpedia
from featcircuits.export.node_link import node_link

__all__ = ["EXPORTERS", "Exporter", "gexf", "graphml", "json", "neuronpedia"]

json = node_link


class Exporter(NamedTuple):
    """A function `write(circuit, path, overwrite=False)`, and the suffix of what it writes."""

    write: Callable[..., None]
    suffix: str
    folder: bool = False
    """Whether it writes a folder, beside whose graph viewers look for dashboards of features."""


EXPORTERS: Mapping[str, Exporter] = {
    "gexf": Exporter(gexf, ".gexf"),
    "graphml": Exporter(graphml, ".graphml"),
    "json": Exporter(node_link, ".json"),
    "neuronpedia": Exporter(neuronpedia, "-neuronpedia", folder=True),
}
