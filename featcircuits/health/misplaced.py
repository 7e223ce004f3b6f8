"""Dictionaries that explain another site much better than their own, told by a few tokens.

Encoding every site's activation with every dictionary is dear where suites are large, so one token or
a few choose what is looked at more closely: a dictionary at its own site is far better there than
anywhere else on almost any token.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from featcircuits.health.fit import Fit, errors_at, fit_at
from featcircuits.model.sites import Site
from featcircuits.splicing.sinks import limit_of, norms
from featcircuits.splicing.spliced import SplicedModel

PRODUCTS = 1 << 33
"""How many multiplications the first look may take before it makes do with fewer tokens."""
FEW, MANY = 8, 64
"""Tokens of the first look and of the closer one, at most."""


def misplaced(spliced: SplicedModel, seen: Mapping[Site, Tensor]) -> dict[Site, Fit]:
    """By the sites where they are, the dictionaries that seem to belong elsewhere, and how well they fit there.

    `seen`: activations [token, width] by site, as for `fit_at`; tokens that are sinks anywhere are left out.
    """
    seen = _usual(seen)
    centred = {site: x - x.mean(0) for site, x in seen.items()}
    count = min(map(len, seen.values()))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:MANY]
    few = order[: _affordable(spliced, seen)]
    found = {}
    for site, dictionary in spliced.dictionaries.items():
        if dictionary.n_features == 0:
            continue  # a whole activation is its error by design
        suspects = _better(spliced, site, _at(seen, few), _at(centred, few))
        if suspects:
            inputs = {there for there in seen if there.kind == "mlp_in"}
            fit = fit_at(spliced, site, _at({there: seen[there] for there in {site, *suspects, *inputs}}, order))
            if fit.misplaced:
                found[site] = fit
    return found


def _better(
    spliced: SplicedModel, site: Site, seen: Mapping[Site, Tensor], centred: Mapping[Site, Tensor]
) -> list[Site]:
    """Where the dictionary leaves a smaller share than at its own site; `centred`: less the mean of all tokens."""
    errors = errors_at(spliced, site, seen)
    left = {there: float(error.square().sum() / centred[there].square().sum()) for there, error in errors.items()}
    return [there for there, share in left.items() if share < left[site]]


def _affordable(spliced: SplicedModel, seen: Mapping[Site, Tensor]) -> int:
    """How many tokens every dictionary can be tried on at every site of its width."""
    sizes = ((d.n_features * (d.read_width + d.width), d.width) for d in spliced.dictionaries.values())
    products = sum(size * sum(x.shape[1] == width for x in seen.values()) for size, width in sizes)
    return max(1, min(FEW, PRODUCTS // max(1, products)))


def _usual(seen: Mapping[Site, Tensor]) -> dict[Site, Tensor]:
    """Tokens that are no sink at any site."""
    sizes = {site: norms(x) for site, x in seen.items()}
    usual = torch.stack([size <= limit_of(size) for size in sizes.values()]).all(0)
    return {site: x[usual] for site, x in seen.items()}


def _at(seen: Mapping[Site, Tensor], tokens: Tensor) -> dict[Site, Tensor]:
    return {site: x[tokens.to(x.device)] for site, x in seen.items()}
