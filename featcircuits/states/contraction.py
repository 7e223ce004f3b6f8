"""From a coefficient at a site to the effects of its nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor

from featcircuits.dictionaries import Dictionary
from featcircuits.model.sites import Site
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.states import SiteState, States


class SiteEffects(NamedTuple):
    """The effects of all nodes of one site, in one batch."""

    features: Tensor
    """The effect of each feature entry [n]."""
    errors: Tensor
    """The effect of the error node at each position [example, slot]."""
    coefficient: Tensor | None = None
    """The coefficient [example, slot, width] that a node's change is multiplied by; None if there is none."""


def contract(state: SiteState, spliced: SplicedModel, site: Site, coefficient: Tensor) -> SiteEffects:
    """change . coefficient for every feature (through its decoder row) and for the error vector."""
    c = coefficient.to(state.change.dtype)
    c_d = spliced.dictionaries[site].gradient_at(c.flatten(0, 1), state.row, state.feature)
    return SiteEffects(state.step * c_d, (state.error_change * c).sum(-1), coefficient)


def contract_all(states: States, spliced: SplicedModel, coefficients: Mapping[Site, Tensor]) -> dict[Site, SiteEffects]:
    """change . coefficient for every node of every site."""
    return {site: contract(state, spliced, site, coefficients[site]) for site, state in states.sites.items()}


def passed_back(dictionary: Dictionary, state: SiteState, coefficient: Tensor, entries: Tensor) -> Tensor:
    """(c . d_i) e_i of feature entries [n]: what each passes back to where the dictionary reads [n, read_width].

    `coefficient`: c at what the dictionary explains [example * slots, width]; d_i, e_i: decoder and encoder rows.
    """
    row, feature = state.row[entries], state.feature[entries]
    c_d = state.scaled(dictionary.gradient_at(coefficient, row, feature), row)
    read = state.read.flatten(0, 1)[row].to(state.change.dtype)
    return dictionary.pull(read, c_d[:, None] * dictionary.encoder_rows(feature))


def nodewise(function: Callable[..., Tensor], *effects: SiteEffects) -> SiteEffects:
    """A function of the effects of features, and the same function of those of errors."""
    return SiteEffects(function(*(each.features for each in effects)), function(*(each.errors for each in effects)))
