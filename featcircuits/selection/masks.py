"""Conversion between values of nodes in a list and masks, by site [place, n_features + 1], the error node last."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from featcircuits.dictionaries.decomposition import precision
from featcircuits.evaluation.masked import Masks
from featcircuits.model.nodes import Node, Place
from featcircuits.model.sites import Site
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.index import NodeIndex


def masks_of(
    spliced: SplicedModel, places: tuple[Place, ...], nodes: Sequence[Node], values: Tensor | None = None
) -> dict[Site, Tensor]:
    """Masks with `values` [node], or 1, at the nodes and 0 elsewhere; differentiable with respect to the values."""
    values = torch.ones(len(nodes)) if values is None else values
    values = values.to(spliced.device, precision(spliced.model.dtype))
    index = NodeIndex.of(spliced, places)
    return {
        site: values.new_zeros(index.count(site)).index_put((number,), values[turn]).view(index.shape(site))
        for site, (number, turn) in index.by_site(nodes, spliced.device).items()
    }


def at_nodes(masks: Masks, spliced: SplicedModel, places: tuple[Place, ...], nodes: Sequence[Node]) -> Tensor:
    """The values of masks at the nodes [node]."""
    values = next(iter(masks.values())).new_zeros(len(nodes))
    for site, (number, turn) in NodeIndex.of(spliced, places).by_site(nodes, spliced.device).items():
        values[turn] = masks[site].flatten()[number]
    return values
