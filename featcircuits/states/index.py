"""The numbers of the nodes of every site: the only module that converts between a node and its number.

The nodes of a site at one place are its features 0 to n_features - 1 and, last, its error node. A site has
these at every place of a task, so its nodes have the numbers

    number = place * (n_features + 1) + node

and a tensor [place, n_features + 1] of a site, flattened, has each node at its number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.errors import InputError, shortened
from featcircuits.model.nodes import Node, Place
from featcircuits.model.sites import Site
from featcircuits.splicing.spliced import SplicedModel


class Numbered(NamedTuple):
    """The nodes of a list that are at one site."""

    number: Tensor
    """Their numbers at the site [n]."""
    turn: Tensor
    """Their indices in the list [n]."""


@dataclass(frozen=True, eq=False)
class NodeIndex:
    """Numbers the nodes of a task. `places`: the task's; `n_features`: those of each site's dictionary."""

    places: tuple[Place, ...]
    n_features: Mapping[Site, int]

    @classmethod
    def of(cls, spliced: SplicedModel, places: tuple[Place, ...]) -> NodeIndex:
        """The index of the sites of a spliced model."""
        return cls(places, n_features_of(spliced))

    def shape(self, site: Site) -> tuple[int, int]:
        """The shape (places, n_features + 1) of a tensor with one entry per node of the site."""
        return len(self.places), self.n_features[site] + 1

    def count(self, site: Site) -> int:
        """How many nodes the site has; all their numbers are smaller."""
        return len(self.places) * (self.n_features[site] + 1)

    def place(self, node: Node) -> int:
        """The index of a node's place; raises `InputError` for a node that does not exist."""
        self.check(node)
        return self._place_numbers[node.place]

    def number(self, node: Node) -> int:
        """A node's number at its site; raises `InputError` for a node that does not exist."""
        n_features = self.n_features.get(node.site, 0)
        return self.place(node) * (n_features + 1) + (n_features if node.feature is None else node.feature)

    def node(self, site: Site, number: int) -> Node:
        """The node with this number at the site: the inverse of `number`."""
        return next(self.nodes(site, [number]))

    def nodes(self, site: Site, numbers: Iterable[int]) -> Iterator[Node]:
        """The nodes with these numbers at the site."""
        n_features, places = self.n_features[site], self.places
        for number in numbers:
            place, node = divmod(number, n_features + 1)
            yield Node(site, None if node == n_features else node, places[place])

    def numbers(self, site: Site, place: Tensor, node: Tensor | int) -> Tensor:
        """The numbers of many nodes: places [n] and nodes [n], where node n_features is the error.

        It also takes positions in place of places, for the nodes of one site at each position of a batch.
        """
        return place * (self.n_features[site] + 1) + node

    def split(self, site: Site, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """(place, node) of numbers: the inverse of `numbers`."""
        return numbers // (self.n_features[site] + 1), numbers % (self.n_features[site] + 1)

    def by_site(self, nodes: Iterable[Node], device: torch.device | None = None) -> dict[Site, Numbered]:
        """A list of nodes grouped by site; raises `InputError` for a node that does not exist."""
        lists: dict[Site, tuple[list[int], list[int]]] = {site: ([], []) for site in self.n_features}
        for turn, node in enumerate(nodes):
            number = self.number(node)
            lists[node.site][0].append(number)
            lists[node.site][1].append(turn)
        return {
            site: Numbered(*(torch.tensor(column, dtype=torch.long, device=device) for column in columns))
            for site, columns in lists.items()
        }

    def check(self, node: Node) -> None:
        """Raise `InputError` for a node that does not exist."""
        check_exists(node, self.n_features)
        if node.place not in self._place_numbers:
            places = shortened(list(self.places))
            raise InputError(f"node {node} does not exist here: its place is not one of the task's, {places}")

    @cached_property
    def _place_numbers(self) -> Mapping[Place, int]:
        return {place: number for number, place in enumerate(self.places)}


def n_features_of(spliced: SplicedModel) -> dict[Site, int]:
    """How many features each site's dictionary has."""
    return {site: dictionary.n_features for site, dictionary in spliced.dictionaries.items()}


def check_exists(node: Node, n_features: Mapping[Site, int]) -> None:
    """Raise `InputError` for a node at a site without a dictionary, or of a feature that the dictionary does not have.

    A dictionary without features still has an error node.
    """
    if node.site not in n_features:
        raise InputError(f"node {node} does not exist here: the suite has no dictionary at {node.site}")
    if node.feature is not None and node.feature >= n_features[node.site]:
        raise InputError(
            f"node {node} does not exist here: the dictionary of {node.site} has {n_features[node.site]} features"
        )
