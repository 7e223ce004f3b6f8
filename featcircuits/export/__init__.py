"""Exporters: circuits for other programs, with one small file per format and a row here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from featcircuits.export.gexf import gexf
from featcircuits.export.graphml import graphml
from featcircuits.export.node_link import node_link

__all__ = ["EXPORTERS", "Exporter", "gexf", "graphml", "json"]

json = node_link


class Exporter(NamedTuple):
    """A function `write(circuit, path, overwrite=False)`, and the suffix of the files it writes."""

    write: Callable[..., None]
    suffix: str


EXPORTERS: Mapping[str, Exporter] = {
    "gexf": Exporter(gexf, ".gexf"),
    "graphml": Exporter(graphml, ".graphml"),
    "json": Exporter(node_link, ".json"),
}
