"""GradDrop (Kramar et al. 2024, AtP*, section 3.1.2), which finds nodes whose contributions cancel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from featcircuits.estimators.estimator import ROWS, Estimator
from featcircuits.estimators.writes import reads, writes
from featcircuits.model.sites import Site
from featcircuits.splicing.gradients import gradients
from featcircuits.splicing.memory import copies_at_once
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.contraction import SiteEffects, contract, nodewise
from featcircuits.states.states import States


@dataclass(frozen=True)
class GradDrop(Estimator):
    """|effect| = mean over terms of |change . dm/dx|; one term drops nothing, the others drop one later write each.

    A write is what a layer's attention or MLP adds to the residual stream. A dropped write carries no
    gradient back, so contributions that cancel through it become visible. The sign is that of plain AtP. The
    paper drops whole layers and averages over all of them; dropping a write before a node would
    only repeat the plain term and dilute the mean, so those terms are left out here.
    """

    def effects(self, spliced: SplicedModel, states: States) -> dict[Site, SiteEffects]:
        """The mean |effect| over terms, with the sign of the plain effect, by site."""
        coefficients = gradients(spliced, states.batch.clean, states.objective, spliced.sites)
        plain = {site: contract(state, spliced, site, coefficients[site]) for site, state in states.sites.items()}
        sums = {site: nodewise(torch.abs, effects) for site, effects in plain.items()}
        terms = dict.fromkeys(sums, 1)
        for write, dropped in _with_one_dropped(spliced, states):
            for site in (site for site in spliced.sites if reads(spliced, write, site)):
                term = contract(states.sites[site], spliced, site, dropped[site])
                sums[site] = nodewise(lambda total, effect: total + effect.abs(), sums[site], term)
                terms[site] += 1
        means = {site: nodewise(lambda total, n=terms[site]: total / n, total) for site, total in sums.items()}
        return {site: nodewise(_signed, means[site], effects) for site, effects in plain.items()}


def _with_one_dropped(spliced: SplicedModel, states: States) -> Iterator[tuple[Site, dict[Site, Tensor]]]:
    """(write, dm/dx at every site while it is dropped), as many writes in one backward pass as fit."""
    dropped = writes(spliced)
    per_run = copies_at_once(spliced, states.batch.clean, ROWS, gradients=True)
    for begin in range(0, len(dropped), per_run):
        chunk = dropped[begin : begin + per_run]
        at_sites = _dropped_gradients(spliced, states, chunk)
        yield from ((write, {site: x[turn] for site, x in at_sites.items()}) for turn, write in enumerate(chunk))


def _dropped_gradients(spliced: SplicedModel, states: States, chunk: list[Site]) -> dict[Site, Tensor]:
    """dm/dx at every site with one write dropped at a time [write, example, slot, width]."""
    count = len(states.batch.index)
    rows = torch.arange(count, device=spliced.device).repeat(len(chunk))
    turn = {write: number for number, write in enumerate(chunk)}
    numbers = torch.arange(len(chunk)).repeat_interleave(count)[:, None, None]

    def drop(write: Site, x: Tensor) -> Tensor:
        return torch.where((numbers == turn[write]).to(x.device), x.detach(), x)

    coefficients = gradients(
        spliced,
        states.batch.clean.select(rows),
        states.objective.select(rows),
        spliced.sites,
        edit=drop,
        edited=chunk,
    )
    return {site: gradient.unflatten(0, (len(chunk), count)) for site, gradient in coefficients.items()}


def _signed(size: Tensor, sign: Tensor) -> Tensor:
    """The mean with the plain effect's sign; a plain effect of exactly 0 counts as positive, so that the mean stays."""
    return torch.where(sign < 0, -size, size)
