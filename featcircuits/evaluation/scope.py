"""What an evaluation ablates: the sites from a start layer on, and error nodes or not."""

from __future__ import annotations

from collections.abc import Iterable

from featcircuits.errors import InputError
from featcircuits.model.nodes import Node
from featcircuits.model.sites import EMBED
from featcircuits.splicing.spliced import SplicedModel


def scope_of(spliced: SplicedModel, start_layer: int, embed: bool | None = None) -> SplicedModel:
    """The model with the sites that are ablated; refuses a start layer that leaves none."""
    n_layers = spliced.architecture.n_layers
    if not 0 <= start_layer < n_layers:
        raise InputError(f"start_layer is {start_layer}; the model has layers 0 to {n_layers - 1}")
    if embed and start_layer > 0:
        raise InputError("embed=True needs start_layer=0: a later start does not run the embedding again")
    with_embed = start_layer == 0 if embed is None else embed
    scope = spliced.only(site for site in spliced.sites if site.layer >= start_layer or (site == EMBED and with_embed))
    if not scope.dictionaries:
        raise InputError(f"start_layer is {start_layer}: the suite has no dictionary from there on")
    return scope


def varying(nodes: Iterable[Node], scope: SplicedModel, error_nodes: str) -> list[Node]:
    """The nodes that a circuit decides on: at the ablated sites, and errors only where they are nodes like others."""
    return [
        node for node in nodes if node.site in scope.dictionaries and (error_nodes == "as-circuit" or not node.is_error)
    ]


COUNTED = {
    "as-circuit": "features and errors",
    "keep": "features; every error kept",
    "remove": "features; every error ablated",
}
"""What a setting of error nodes lets vary."""
