"""Backward passes through the local replacement model (Ameisen et al. 2025): MLPs give way to their transcoders.

With c the gradient at the MLP's output, active features i with encoder rows e_i and decoder rows d_i, and bypass B,
what goes back to where the transcoder reads is

    sum over active i of (c . d_i) e_i + c B

The error is constant there, so node effects equal the totals along the edges between features, tokens and the metric.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from featcircuits.dictionaries import Dictionary
from featcircuits.errors import InputError
from featcircuits.model.architecture import Architecture
from featcircuits.model.sites import Site
from featcircuits.propagation.carry import propagates
from featcircuits.propagation.features import through
from featcircuits.propagation.rules import Handle, Rule, entered
from featcircuits.splicing.hooks import editing
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.contraction import passed_back
from featcircuits.states.states import SiteState, States

_NUMBERS = 1 << 24
"""The most numbers of encoder rows at once."""


def replaced_mlps(spliced: SplicedModel, states: States) -> Rule:
    """The rule `features` for the clean run of a batch: at every transcoder, gradients go through its features."""

    def carried(site: Site, x: Tensor, read: Tensor) -> Tensor:
        dictionary = spliced.dictionaries[site]
        if not (dictionary.transcodes and propagates(read)):
            return x
        return through(x, read, lambda c: _passed(dictionary, states.sites[site], c))

    def rule(model: Any, architecture: Architecture) -> Iterator[Handle]:
        sites = [site for site, dictionary in spliced.dictionaries.items() if dictionary.transcodes]
        if not sites:
            raise InputError(
                "rule 'features' sends gradients through transcoders in place of their MLPs, and the suite has no "
                "transcoder; leave the rule out"
            )
        edit = spliced.reading(carried)
        yield entered(editing(architecture, model, spliced.device, spliced.with_reads(sites), edit))

    return rule


def _passed(dictionary: Dictionary, state: SiteState, gradient: Tensor) -> Tensor:
    """What active features and the bypass pass back to where a transcoder reads [example, slot, read_width]."""
    c = gradient.flatten(0, 1).to(state.change.dtype)
    passed = c.new_zeros(len(c), state.read.shape[-1])
    for part in state.active.nonzero()[:, 0].split(max(1, _NUMBERS // passed.shape[1])):
        passed.index_add_(0, state.row[part], passed_back(dictionary, state, c, part))
    past = dictionary.pull_bypass(c)
    return (passed if past is None else passed + past).view(state.read.shape)
