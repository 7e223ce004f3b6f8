"""Integrated gradients per site (Marks et al. 2024, eq. 4; Sundararajan et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from featcircuits.estimators.estimator import ROWS, CoefficientEstimator
from featcircuits.estimators.quadrature import MOST_STEPS, check_quadrature, points
from featcircuits.inputs.ranges import ranged
from featcircuits.model.frozen import frozen
from featcircuits.model.sites import Site, resid
from featcircuits.splicing.memory import copies_at_once
from featcircuits.splicing.spliced import SplicedModel, Start
from featcircuits.splicing.starts import entry_site
from featcircuits.states.states import States


@dataclass(frozen=True)
class IntegratedGradients(CoefficientEstimator):
    """coefficient = mean of dm/dx along the straight path of the whole site.

    Since decode is affine, the path of features and error is the path of x itself, so no dictionary
    runs inside the loop. Sites before the same layer share forward passes, which start at that layer; a site that
    only the stream reads moves the stream.
    """

    steps: int = ranged(10, 1, MOST_STEPS)
    quadrature: str = "left"

    compared = ({}, {"steps": 3, "quadrature": "gauss"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_quadrature(self.quadrature, self.steps)

    def coefficients(self, spliced: SplicedModel, states: States) -> dict[Site, Tensor]:
        """The mean gradient along the path [example, slot, width], by site."""
        totals = {site: torch.zeros_like(state.x) for site, state in states.sites.items()}
        path = points(self.quadrature, self.steps)
        by_start = sorted(spliced.sites, key=lambda site: (entry_site(spliced, site).start, site))
        per_run = copies_at_once(spliced, states.batch.clean, ROWS, gradients=True)
        for start, sites in groupby(by_start, key=lambda site: entry_site(spliced, site).start):
            jobs = [(site, alpha, weight) for site in sites for alpha, weight in path]
            for begin in range(0, len(jobs), per_run):
                chunk = jobs[begin : begin + per_run]
                stops = [(entry_site(spliced, site), _moved(spliced, states, site, alpha)) for site, alpha, _ in chunk]
                found = _gradients_at(spliced, states, start, stops)
                for (site, _, weight), gradient in zip(chunk, found, strict=True):
                    totals[site] += weight * gradient
        return totals


def _moved(spliced: SplicedModel, states: States, site: Site, alpha: float) -> Tensor:
    """The activation at the site's entry with the whole site moved by `alpha` of its change."""
    entry, state = entry_site(spliced, site), states.sites[site]
    x = state.x if entry == site else states.streams[entry]
    return x + alpha * state.x_change.to(x.dtype)


def _gradients_at(
    spliced: SplicedModel, states: States, start: int, stops: Sequence[tuple[Site, Tensor]]
) -> Sequence[Tensor]:
    """dm/dx at each (entry, value of it), all in one forward pass from layer `start`."""
    n_examples = len(states.batch.index)
    rows = torch.arange(n_examples, device=spliced.device).repeat(len(stops))
    leaves = [value.detach().requires_grad_() for _, value in stops]
    at = {site: [i for i, (s, _) in enumerate(stops) if s == site] for site, _ in stops}

    def put(site: Site, x: Tensor) -> Tensor:
        blocks = list(x.split(n_examples))
        for i in at[site]:
            blocks[i] = leaves[i]
        return torch.cat(blocks)

    with torch.enable_grad(), frozen(spliced.model):
        entry = resid(start - 1)
        begin = None
        if start > 0:
            stream = states.streams[entry].repeat(len(stops), 1, 1)
            begin = Start(start, put(entry, stream) if entry in at else stream)
        logits = spliced.run(
            states.batch.clean.select(rows),
            put,
            sites=at,
            start=begin,
            answers_only=True,
        )
        return torch.autograd.grad(states.objective.select(rows)(logits).sum(), leaves)
