"""Exporters: a circuit for other programs; one small file a format, and a row here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from featcircuits.export.gexf import gexf
from featcircuits.export.graphml import graphml
from featcircuits.export.node_link import node_link

__all__ = ["EXPORTERS", "Exporter", "gexf", "graphml", "json"]

json = node_link


class Exporter(NamedTuple):
    """`write(circuit, path, overwrite=False)`, and the suffix of the files it writes."""

    write: Callable[..., None]
    suffix: str


EXPORTERS: Mapping[str, Exporter] = {
    "gexf": Exporter(gexf, ".gexf"),
    "graphml": Exporter(graphml, ".graphml"),
    "json": Exporter(node_link, ".json"),
}
