"""Which nodes of a batch edges are drawn between."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.errors import InputError
from featcircuits.model.nodes import Node, Place
from featcircuits.model.sites import Site
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.states import States


class SiteSelection(NamedTuple):
    """One site's part: feature entries of its `SiteState` and errors at rows (example * slots + slot).

    Targets are nodes that edges lead to, sources nodes that they start from; all are masks.
    """

    target_entries: Tensor
    target_errors: Tensor
    source_entries: Tensor
    source_errors: Tensor


Selection = Mapping[Site, SiteSelection]


def select_above(states: States, effects: Mapping[Site, tuple[Tensor, Tensor]], threshold: float) -> Selection:
    """Targets: nodes whose |effect| in their example and position exceeds `threshold`; sources: all."""
    return {
        site: SiteSelection(
            # an inactive feature passes nothing on, so no edge leads to it
            (effects[site][0].abs() > threshold) & state.active,
            (effects[site][1].abs() > threshold).flatten(),
            torch.ones_like(state.active),
            torch.ones_like(states.batch.places.flatten(), dtype=torch.bool),
        )
        for site, state in states.sites.items()
    }


def _exists(node: Node, n_features: int) -> bool:
    """A site without features still has its error."""
    return node.feature is None or node.feature < n_features


class NodeSet:
    """A fixed set of nodes, as sorted keys place * (n_features + 1) + node for each site."""

    def __init__(self, nodes: Iterable[Node], spliced: SplicedModel, places: tuple[Place, ...]) -> None:
        self._widths = {site: dictionary.n_features + 1 for site, dictionary in spliced.dictionaries.items()}
        index = {place: number for number, place in enumerate(places)}
        keys: dict[Site, list[int]] = {site: [] for site in spliced.sites}
        for node in nodes:
            last = self._widths.get(node.site, 0) - 1
            if node.site not in keys or node.place not in index or not _exists(node, last):
                raise InputError(f"node {node} does not exist in this suite and task")
            keys[node.site].append(
                index[node.place] * self._widths[node.site] + (last if node.feature is None else node.feature)
            )
        self._keys = {site: torch.tensor(sorted(found), dtype=torch.long) for site, found in keys.items()}

    def of_batch(self, states: States) -> Selection:
        """The set's nodes in this batch's examples: both targets and sources."""
        places = states.batch.places.flatten()
        selection = {}
        for site, state in states.sites.items():
            keys, width = self._keys[site].to(places.device), self._widths[site]
            entries = torch.isin(places[state.row] * width + state.feature, keys)
            errors = torch.isin(places * width + width - 1, keys) & (places >= 0)
            selection[site] = SiteSelection(entries & state.active, errors, entries, errors)
        return selection

    def occurrences(self, states: States, site: Site) -> tuple[Tensor, Tensor]:
        """Every position at which a node of the set stands in this batch: (row, node) [n], active or not.

        Rows are example * slots + slot; node n_features is the error term.
        """
        places, width = states.batch.places.flatten(), self._widths[site]
        keys = self._keys[site].to(places.device)
        row, number = (places[:, None] == keys // width).nonzero(as_tuple=True)
        return row, keys[number] % width
