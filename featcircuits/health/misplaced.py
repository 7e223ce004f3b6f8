"""Dictionaries that explain another site much better than their own, found with a few tokens.

In a large suite it is expensive to encode every site's activation with every dictionary. So only dictionaries
that explain their own site badly are tried at other sites; if there are many, only the worst of each kind of
site are tried, on one or a few tokens. This is enough to decide where a closer look is worth its time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from featcircuits.dictionaries import Dictionary
from featcircuits.health.fit import Fit, errors_at, fit_at
from featcircuits.model.sites import READ_ONLY, Site
from featcircuits.splicing.sinks import limit_of, norms
from featcircuits.splicing.spliced import SplicedModel

BAD = 0.03
"""A dictionary that leaves at most this share of its own site's variance is not tried at other sites."""
PRODUCTS = 1 << 30
"""The most multiplications of the first look; to stay below, it takes fewer tokens, then fewer dictionaries."""
FEW, MANY = 8, 64
"""The most tokens of the first look and of the closer look."""
NOT_WORSE = 0.75
"""The first look suspects a site if the dictionary leaves less there than this times what it leaves at its own."""


def misplaced(spliced: SplicedModel, seen: Mapping[Site, Tensor], own: Mapping[Site, float]) -> dict[Site, Fit]:
    """The dictionaries that seem to belong at another site, by their own site, with their fit at both.

    `seen`: activations [token, width] by site, as for `fit_at`; tokens that are a sink at any site are left out.
    `own`: the share of variance that each dictionary leaves at its own site. If one is misplaced, all are tried.
    """
    suspicious = _worst_first({site: share for site, share in own.items() if share > BAD})
    if not suspicious:
        return {}
    seen = _usual(seen)
    count = min(map(len, seen.values()))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:MANY]
    tokens, most = _affordable(spliced, seen, suspicious)
    look = _look(spliced, seen, order[:tokens], order)
    found = dict(look.fits(suspicious[:most]))
    if found:
        found |= look.fits(suspicious[most:])
    return dict(sorted(found.items()))


def _worst_first(shares: Mapping[Site, float]) -> list[Site]:
    """The worst of each kind of site, then the second worst of each, since some kinds are easier to explain."""
    ranks: Counter[str] = Counter()
    places = {}
    for site in sorted(shares, key=lambda site: -shares[site]):
        places[site] = (ranks[site.kind], -shares[site])
        ranks[site.kind] += 1
    return sorted(places, key=lambda site: places[site])


def _affordable(spliced: SplicedModel, seen: Mapping[Site, Tensor], sites: list[Site]) -> tuple[int, int]:
    """How many tokens and how many dictionaries the first look can afford."""
    costs = [_products(spliced.dictionaries[site], seen) for site in sites]
    tokens = max(1, min(FEW, PRODUCTS // max(1, sum(costs))))
    return tokens, max(1, sum(tokens * cost <= PRODUCTS for cost in accumulate(costs)))


def _products(dictionary: Dictionary, seen: Mapping[Site, Tensor]) -> int:
    """The multiplications that encode one token at every site where the dictionary is tried."""
    return dictionary.n_features * dictionary.read_width * sum(x.shape[1] == dictionary.width for x in seen.values())


@dataclass(frozen=True, eq=False)
class _Look:
    """The activations [token, width] by site that dictionaries are tried on: a few tokens, then more."""

    spliced: SplicedModel
    few: Mapping[Site, Tensor]
    many: Mapping[Site, Tensor]
    spread: Mapping[Site, Tensor]
    """The squared distance of the few tokens from the mean of all tokens, by site."""

    def fits(self, sites: Iterable[Site]) -> Iterator[tuple[Site, Fit]]:
        """The dictionaries of these sites that belong at another site, with their fit there."""
        for site in sites:
            if suspects := self._better(site):
                inputs = {there for there in self.many if there.kind in READ_ONLY}
                fit = fit_at(self.spliced, site, {there: self.many[there] for there in {site, *suspects, *inputs}})
                if fit.misplaced:
                    yield site, fit

    def _better(self, site: Site) -> list[Site]:
        """The sites where the dictionary seems to leave a clearly smaller share than at its own."""
        errors = errors_at(self.spliced, site, self.few)
        left = {there: float(error.square().sum() / self.spread[there]) for there, error in errors.items()}
        return [there for there, share in left.items() if share < NOT_WORSE * left[site]]


def _look(spliced: SplicedModel, seen: Mapping[Site, Tensor], few: Tensor, many: Tensor) -> _Look:
    """`few`, `many`: the indices of tokens."""
    centred = {site: x - x.mean(0) for site, x in seen.items()}
    spread = {site: x.square().sum() for site, x in _at(centred, few).items()}
    return _Look(spliced, _at(seen, few), _at(seen, many), spread)


def _usual(seen: Mapping[Site, Tensor]) -> dict[Site, Tensor]:
    """`seen` without the tokens that are a sink at any site."""
    sizes = {site: norms(x) for site, x in seen.items()}
    usual = torch.stack([size <= limit_of(size) for size in sizes.values()]).all(0)
    return {site: x[usual] for site, x in seen.items()}


def _at(seen: Mapping[Site, Tensor], tokens: Tensor) -> dict[Site, Tensor]:
    return {site: x[tokens.to(x.device)] for site, x in seen.items()}
