"""Dictionaries that explain another site much better than their own, told by a few tokens.

Encoding every site's activation with every dictionary is dear where suites are large. So only dictionaries
that explain their own site badly are tried elsewhere, where they are many only the worst of each kind of
site, and those on one token or a few: that is enough to tell where a closer look is worth its time.
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
from featcircuits.model.sites import Site
from featcircuits.splicing.sinks import limit_of, norms
from featcircuits.splicing.spliced import SplicedModel

BAD = 0.03
"""A dictionary that leaves no more than this share of its own site's variance is not tried elsewhere."""
PRODUCTS = 1 << 30
"""How many multiplications the first look may take before it takes fewer tokens, then fewer dictionaries."""
FEW, MANY = 8, 64
"""Tokens of the first look and of the closer one, at most."""
NOT_WORSE = 0.75
"""What it may leave there on the tokens of the first look, as a share of what it leaves at its own site."""


def misplaced(spliced: SplicedModel, seen: Mapping[Site, Tensor], own: Mapping[Site, float]) -> dict[Site, Fit]:
    """By the sites where they are, the dictionaries that seem to belong elsewhere, and how well they fit there.

    `seen`: activations [token, width] by site, as for `fit_at`; tokens that are sinks anywhere are left out.
    `own`: the share of variance that each dictionary leaves at its own site. Once one is found, all are tried.
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
    """First the worst of each kind of site, then the second of each: kinds differ in how well they are explained."""
    ranks: Counter[str] = Counter()
    places = {}
    for site in sorted(shares, key=lambda site: -shares[site]):
        places[site] = (ranks[site.kind], -shares[site])
        ranks[site.kind] += 1
    return sorted(places, key=lambda site: places[site])


def _affordable(spliced: SplicedModel, seen: Mapping[Site, Tensor], sites: list[Site]) -> tuple[int, int]:
    """How many tokens each of the first so many dictionaries can be tried on, at every site of its width."""
    costs = [_products(spliced.dictionaries[site], seen) for site in sites]
    tokens = max(1, min(FEW, PRODUCTS // max(1, sum(costs))))
    return tokens, max(1, sum(tokens * cost <= PRODUCTS for cost in accumulate(costs)))


def _products(dictionary: Dictionary, seen: Mapping[Site, Tensor]) -> int:
    """Multiplications to encode a token of every site that it is tried at."""
    return dictionary.n_features * dictionary.read_width * sum(x.shape[1] == dictionary.width for x in seen.values())


@dataclass(frozen=True, eq=False)
class _Look:
    """What dictionaries are tried on: activations [token, width] by site at a few tokens, then at more."""

    spliced: SplicedModel
    few: Mapping[Site, Tensor]
    many: Mapping[Site, Tensor]
    spread: Mapping[Site, Tensor]
    """How far the few are from the mean of all tokens, squared."""

    def fits(self, sites: Iterable[Site]) -> Iterator[tuple[Site, Fit]]:
        """The dictionaries of these sites that belong elsewhere, and how well they fit there."""
        for site in sites:
            if suspects := self._better(site):
                inputs = {there for there in self.many if there.kind == "mlp_in"}
                fit = fit_at(self.spliced, site, {there: self.many[there] for there in {site, *suspects, *inputs}})
                if fit.misplaced:
                    yield site, fit

    def _better(self, site: Site) -> list[Site]:
        """Where the dictionary seems to leave a clearly smaller share than at its own site."""
        errors = errors_at(self.spliced, site, self.few)
        left = {there: float(error.square().sum() / self.spread[there]) for there, error in errors.items()}
        return [there for there, share in left.items() if share < NOT_WORSE * left[site]]


def _look(spliced: SplicedModel, seen: Mapping[Site, Tensor], few: Tensor, many: Tensor) -> _Look:
    """`few`, `many`: numbers of tokens."""
    centred = {site: x - x.mean(0) for site, x in seen.items()}
    spread = {site: x.square().sum() for site, x in _at(centred, few).items()}
    return _Look(spliced, _at(seen, few), _at(seen, many), spread)


def _usual(seen: Mapping[Site, Tensor]) -> dict[Site, Tensor]:
    """Tokens that are no sink at any site."""
    sizes = {site: norms(x) for site, x in seen.items()}
    usual = torch.stack([size <= limit_of(size) for size in sizes.values()]).all(0)
    return {site: x[usual] for site, x in seen.items()}


def _at(seen: Mapping[Site, Tensor], tokens: Tensor) -> dict[Site, Tensor]:
    return {site: x[tokens.to(x.device)] for site, x in seen.items()}
