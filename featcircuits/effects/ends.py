"""The ends of edges: the nodes of a batch between which edges are computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.model.nodes import Node, Place
from featcircuits.model.sites import Site
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.contraction import SiteEffects
from featcircuits.states.index import NodeIndex
from featcircuits.states.states import States


class SiteEnds(NamedTuple):
    """The ends at one site: masks of feature entries of its `SiteState` and of errors at rows (example * slots + slot).

    Targets are nodes that edges lead to, sources nodes that they start from.
    """

    target_entries: Tensor
    target_errors: Tensor
    source_entries: Tensor
    source_errors: Tensor

    def without_target_errors(self) -> SiteEnds:
        """The same ends, but no edge leads to an error."""
        return self._replace(target_errors=torch.zeros_like(self.target_errors))


Ends = Mapping[Site, SiteEnds]


def ends_above(effects: Mapping[Site, SiteEffects], threshold: float, states: States) -> Ends:
    """Targets are the nodes whose |effect| in their example and position exceeds `threshold`; sources are all nodes."""
    ends = {}
    for site, state in states.sites.items():
        own = effects[site]
        ends[site] = SiteEnds(
            # an inactive feature passes on nothing, so no edge leads to it
            target_entries=(own.features.abs() > threshold) & state.active,
            target_errors=(own.errors.abs() > threshold).flatten(),
            source_entries=torch.ones_like(state.active),
            source_errors=torch.ones_like(states.batch.places.flatten(), dtype=torch.bool),
        )
    return ends


class Occurrences(NamedTuple):
    """Nodes of a site in a batch, one per position: `row` = example * slots + slot; node n_features is the error."""

    row: Tensor
    node: Tensor


class NodeSet:
    """A fixed set of nodes, as sorted numbers for each site; raises `InputError` for a node that does not exist."""

    def __init__(self, nodes: Iterable[Node], spliced: SplicedModel, places: tuple[Place, ...]) -> None:
        self.index = NodeIndex.of(spliced, places)
        self._numbers = {site: number.sort().values for site, (number, _) in self.index.by_site(nodes).items()}

    def ends(self, states: States) -> Ends:
        """The set's nodes in this batch's examples, both as targets and as sources."""
        places = states.batch.places.flatten()
        ends = {}
        for site, state in states.sites.items():
            numbers, error = self._numbers[site].to(places.device), self.index.n_features[site]
            entries = torch.isin(self.index.numbers(site, places[state.row], state.feature), numbers)
            errors = torch.isin(self.index.numbers(site, places, error), numbers) & (places >= 0)
            ends[site] = SiteEnds(entries & state.active, errors, entries, errors)
        return ends

    def occurrences(self, states: States, site: Site) -> Occurrences:
        """Every position of this batch at which a node of the set is, active or not."""
        places = states.batch.places.flatten()
        place, node = self.index.split(site, self._numbers[site].to(places.device))
        row, turn = (places[:, None] == place).nonzero(as_tuple=True)
        return Occurrences(row, node[turn])
