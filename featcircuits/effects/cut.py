"""The clean run with its graph cut at every site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from featcircuits.model.sites import Site
from featcircuits.splicing.spliced import Arrival, SplicedModel
from featcircuits.states.states import States


class Cut(NamedTuple):
    """`incoming`: what arrives at each site, as a function of the `leaves` before it."""

    incoming: Mapping[Site, Arrival]
    leaves: Mapping[Site, Tensor]
    metric: Tensor


def cut_forward(spliced: SplicedModel, states: States) -> Cut:
    """The clean run with its graph cut at every site."""
    incoming: dict[Site, Arrival] = {}
    leaves: dict[Site, Tensor] = {}

    def cut(site: Site, x: Tensor, read: Tensor) -> Tensor:
        dictionary = spliced.dictionaries[site]
        incoming[site] = Arrival(x, read)
        leaves[site] = x.detach().requires_grad_()
        if not dictionary.has_bypass:
            return leaves[site]
        past = dictionary.bypass(read.to(states.sites[site].change.dtype))
        assert past is not None
        # the path past the features: it does not change the value, but passes the gradient
        return leaves[site] + (past - past.detach()).to(x.dtype)

    logits = spliced.run_reading(states.batch.clean, cut, answers_only=True)
    return Cut(incoming, leaves, states.objective(logits))
