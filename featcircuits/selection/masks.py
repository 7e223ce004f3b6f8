"""Between lists of nodes and masks: per site [place, n_features + 1], the error's last."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from featcircuits.dictionaries.decomposition import precision
from featcircuits.evaluation.masked import Masks
from featcircuits.model.nodes import Node, Place
from featcircuits.model.sites import Site
from featcircuits.splicing.spliced import SplicedModel


def masks_of(
    spliced: SplicedModel, places: tuple[Place, ...], nodes: Sequence[Node], values: Tensor | None = None
) -> dict[Site, Tensor]:
    """`values` [node], or 1, at the nodes and 0 elsewhere; differentiable in the values."""
    values = torch.ones(len(nodes)) if values is None else values
    values = values.to(spliced.device, precision(spliced.model.dtype))
    rows = _rows(spliced, places, nodes)
    masks = {}
    for site, dictionary in spliced.dictionaries.items():
        flat = values.new_zeros(len(places) * (dictionary.n_features + 1))
        index, which = rows[site]
        masks[site] = flat.index_put((index,), values[which]).view(len(places), -1)
    return masks


def at_nodes(masks: Masks, spliced: SplicedModel, places: tuple[Place, ...], nodes: Sequence[Node]) -> Tensor:
    """The masks' values at the nodes [node]."""
    rows = _rows(spliced, places, nodes)
    found = next(iter(masks.values())).new_zeros(len(nodes))
    for site, mask in masks.items():
        index, which = rows[site]
        found[which] = mask.flatten()[index]
    return found


def _rows(spliced: SplicedModel, places: tuple[Place, ...], nodes: Sequence[Node]) -> dict[Site, tuple[Tensor, Tensor]]:
    """Per site: where in its flattened mask some nodes stand, and which these are."""
    number = {place: index for index, place in enumerate(places)}
    found: dict[Site, tuple[list[int], list[int]]] = {site: ([], []) for site in spliced.dictionaries}
    for which, node in enumerate(nodes):
        n_features = spliced.dictionaries[node.site].n_features
        feature = n_features if node.feature is None else node.feature
        index, own = found[node.site]
        index.append(number[node.place] * (n_features + 1) + feature)
        own.append(which)
    device = spliced.device
    return {
        site: (torch.tensor(index, dtype=torch.long, device=device), torch.tensor(own, dtype=torch.long, device=device))
        for site, (index, own) in found.items()
    }
