"""What downstream nodes pass back through direct connections, and its products with what upstream nodes change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.dictionaries import Dictionary
from featcircuits.dictionaries.products import dots
from featcircuits.effects.ends import SiteEnds
from featcircuits.model.connections import Connection, Through
from featcircuits.states.states import SiteState

NUMBERS = 1 << 24
"""The most numbers in one batched backward pass or one gather."""


class Edges(NamedTuple):
    """The edges of one connection in one batch, as columns; rows are example * slots + slot."""

    target_row: Tensor
    target_node: Tensor
    source_row: Tensor
    source_node: Tensor
    value: Tensor


class Products(NamedTuple):
    """v_d J of some targets of one connection, at every upstream row (example * slots + slot) that they read."""

    connection: Connection
    slots: int
    target_row: Tensor
    """The row of each target [target]."""
    target_node: Tensor
    """The node of each target [target]."""
    table: Tensor
    """All products [m, width], in the order of the backward passes."""
    first: Tensor
    """Where each target's products begin in the table [target]; through a skip each target has only one."""
    reach: int
    """Only rows at the first so many slots have products; the others are after every target."""

    def number(self, target: Tensor, row: Tensor) -> Tensor:
        """The indices in the table of the products of (target, upstream row) [n]."""
        return self.first[target] + (0 if self.connection.through == Through.SKIP else row)

    def pairs(self, row: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """(i, j) for every target i and upstream row[j] that it reads, in pieces; `row` is sorted.

        Attention reads every position of the example, other modules only the target's own.
        """
        together = self.slots if self.connection.through == Through.ATTENTION else 1
        near = (row % self.slots < self.reach).nonzero()[:, 0]
        for i, j in _pairs(self.target_row // together, row[near] // together, self.table.shape[-1]):
            yield i, near[j]


def contracted(products: Products, dictionary: Dictionary, state: SiteState, ends: SiteEnds) -> Iterator[Edges]:
    """v_d J . (change of x by u), for each pair of a target d and a source u that it reads."""
    # a feature changes x by `step` of its decoder row
    entry = (ends.source_entries & (state.change != 0)).nonzero()[:, 0]
    for t, e in products.pairs(state.row[entry]):
        row, feature = state.row[entry[e]], state.feature[entry[e]]
        value = dictionary.gradient_at(products.table, products.number(t, row), feature) * state.step[entry[e]]
        yield _nonzero(Edges(products.target_row[t], products.target_node[t], row, feature, value))

    # an error changes x by its own change
    error = state.error_change.flatten(0, 1)
    error_row = (ends.source_errors & (error != 0).any(-1)).nonzero()[:, 0]
    for t, e in products.pairs(error_row):
        row = error_row[e]
        value = dots(products.table, products.number(t, row), error, row)
        node = torch.full_like(row, dictionary.n_features)
        yield _nonzero(Edges(products.target_row[t], products.target_node[t], row, node, value))


def _pairs(group: Tensor, other: Tensor, width: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All (i, j) with group[i] == other[j], in pieces that fit for vectors of this width; `other` is sorted."""
    first = torch.searchsorted(other, group)
    count = torch.searchsorted(other, group, right=True) - first
    ends = count.cumsum(0)
    limit, begin = max(1, NUMBERS // width), 0
    while begin < len(group):
        done = int(ends[begin - 1]) if begin else 0
        end = max(begin + 1, int(torch.searchsorted(ends, done + limit, right=True)))
        i = torch.arange(begin, end, device=group.device).repeat_interleave(count[begin:end])
        within = torch.arange(len(i), device=group.device) - (ends[i] - count[i] - done)
        yield i, first[i] + within
        begin = end


def _nonzero(edges: Edges) -> Edges:
    kept = edges.value != 0
    return Edges(*(column[kept] for column in edges))
