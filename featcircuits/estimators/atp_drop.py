"""GradDrop (Kramar et al. 2024, AtP*, section 3.1.2), which finds nodes whose contributions cancel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from featcircuits.estimators.estimator import ROWS, Estimator, SiteEffects
from featcircuits.estimators.writes import reads, writes
from featcircuits.model.sites import Site
from featcircuits.splicing.spliced import SplicedModel, gradients
from featcircuits.states.contraction import contract
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
        plain = gradients(spliced, states.batch.clean, states.objective, spliced.sites)
        at_clean = {site: contract(states.sites[site], spliced, site, plain[site]) for site in spliced.sites}
        sums = {site: [part.abs() for part in parts] for site, parts in at_clean.items()}
        terms = dict.fromkeys(sums, 1)
        dropped = writes(spliced)
        per_run = spliced.copies_at_once(states.batch.clean, ROWS, gradients=True)
        for begin in range(0, len(dropped), per_run):
            chunk = dropped[begin : begin + per_run]
            found = _dropped_gradients(spliced, states, chunk)
            for site, gradient in found.items():
                for write, coefficient in zip(chunk, gradient, strict=True):
                    if reads(spliced, write, site):
                        parts = contract(states.sites[site], spliced, site, coefficient)
                        sums[site] = [total + part.abs() for total, part in zip(sums[site], parts, strict=True)]
                        terms[site] += 1
        return {
            site: SiteEffects(*(_signed(total / terms[site], at) for total, at in zip(sums[site], parts, strict=True)))
            for site, parts in at_clean.items()
        }


def _dropped_gradients(spliced: SplicedModel, states: States, chunk: list[Site]) -> dict[Site, Tensor]:
    """dm/dx at every site with one write dropped at a time [write, example, slot, width]."""
    count = len(states.batch.index)
    rows = torch.arange(count, device=spliced.device).repeat(len(chunk))
    turn = {write: number for number, write in enumerate(chunk)}
    numbers = torch.arange(len(chunk)).repeat_interleave(count)[:, None, None]

    def drop(write: Site, x: Tensor) -> Tensor:
        return torch.where((numbers == turn[write]).to(x.device), x.detach(), x)

    found = gradients(
        spliced,
        states.batch.clean.select(rows),
        states.objective.select(rows),
        spliced.sites,
        edit=drop,
        edited=chunk,
    )
    return {site: gradient.unflatten(0, (len(chunk), count)) for site, gradient in found.items()}


def _signed(size: Tensor, sign: Tensor) -> Tensor:
    """The mean with the plain effect's sign; a plain effect of exactly 0 counts as positive, so that the mean stays."""
    return torch.where(sign < 0, -size, size)
