"""Whether a dictionary fits the activations it is spliced into, checked without a forward pass.

The figure is the share of variance left unexplained, `sum |error|^2 / sum |x - mean|^2` over tokens.
At 1 a dictionary does no better than the site's mean alone. Above 1 its features say nothing
about the activation: it belongs to another model, another site, or inputs of another scale. Sink
tokens (`featcircuits.splicing.sinks`) are always left out, because they would dominate the figure and most
published dictionaries were not trained on them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.dictionaries import Dictionary
from featcircuits.health.figures import explained
from featcircuits.model.sites import READ_ONLY, Site
from featcircuits.splicing.sinks import limit_of, norms
from featcircuits.splicing.spliced import SplicedModel, read_by

ABSURD = 1.0
"""The largest share of variance that a dictionary may leave unexplained; the mean alone leaves 1."""
MUCH_BETTER = 0.5
"""A dictionary is misplaced if it leaves less than this times its own site's share unexplained at another site."""
REMEDY = "use the suite's own model and sites, or go on anyway with check_fit=False (--no-check-fit)"


class Fit(NamedTuple):
    """How well a dictionary fits its site, and the other site that it explains best (None if none was compared).

    For a transcoder `other` may also be a place that it does not read, for its own MLP's output.
    """

    unexplained: float
    other: Site | None = None
    unexplained_there: float = math.nan

    @property
    def misplaced(self) -> bool:
        """Whether it explains the other site much better than its own."""
        return self.unexplained_there < MUCH_BETTER * self.unexplained

    @property
    def fault(self) -> str:
        """What is wrong, or an empty text."""
        if self.misplaced and self.other is not None and self.other.kind in READ_ONLY:
            return (
                f"it leaves much less if it reads {self.other} ({percent(self.unexplained_there)}), as it does with "
                f'reads = "{self.other.kind}" for its site'
            )
        if self.misplaced:
            return f"it explains {self.other} much better ({percent(self.unexplained_there)}) and seems to belong there"
        return "it belongs to another model or site, or to inputs of another scale" if self.unexplained > ABSURD else ""


def percent(share: float) -> str:
    """A share as a percentage, as tables and cards write it."""
    return f"{100 * share:.3g}%"


def unexplained(x: Tensor, error: Tensor) -> float:
    """The share of the variance of x [token, width] that is left in `error`, without sinks; NaN without variance."""
    sizes = norms(x)
    usual = sizes <= limit_of(sizes)
    x, error = x[usual].double(), error[usual].double()
    variance = (x - x.mean(0)).square().sum().item()
    return error.square().sum().item() / variance if variance > 0 else math.nan


def fit_at(spliced: SplicedModel, site: Site, seen: Mapping[Site, Tensor]) -> Fit:
    """The fit of the dictionary of `site` at its own site and at all others that it could be meant for.

    `seen`: activations [token, width] by site. An autoencoder is tried at every site of its width, and
    a transcoder at every MLP whose input and output are both in `seen`, and at its own on what else is before it.
    """
    errors = errors_at(spliced, site, seen)
    fits = {there: unexplained(seen[there], error) for there, error in errors.items()}
    own = fits.pop(site)
    fits |= _by_other_inputs(spliced.dictionaries[site], site, seen)
    best = min(fits, key=lambda there: _known(fits[there]), default=None)
    return Fit(own) if best is None else Fit(own, best, fits[best])


def _by_other_inputs(dictionary: Dictionary, site: Site, seen: Mapping[Site, Tensor]) -> dict[Site, float]:
    """What a transcoder leaves unexplained at its own site if it reads what it is not given there."""
    others = [Site(site.layer, kind) for kind in READ_ONLY if dictionary.transcodes and kind != dictionary.reads]
    fits: dict[Site, float] = {}
    for other in others:
        if other in seen and seen[other].shape[1] == dictionary.read_width:
            part = torch.cat([part for _, part in explained(dictionary, seen[other])])
            fits[other] = unexplained(seen[site], seen[site] - part)
    return fits


def errors_at(spliced: SplicedModel, site: Site, seen: Mapping[Site, Tensor]) -> dict[Site, Tensor]:
    """The dictionary's errors [token, width] at its own site and at all others in `seen` that it could be meant for."""
    dictionary, reads = spliced.dictionaries[site], {}
    for there, x in seen.items():
        read = _read(spliced, dictionary, there, seen)
        if there.kind not in READ_ONLY and read is not None and x.shape[1] == dictionary.width:
            reads[there] = read
        # encode all sites at once, so that the weights are read only once
    parts = torch.cat([part for _, part in explained(dictionary, torch.cat(list(reads.values())))])
    split = parts.split([len(read) for read in reads.values()])
    return {there: seen[there] - part for there, part in zip(reads, split, strict=True)}


def _read(spliced: SplicedModel, dictionary: Dictionary, there: Site, seen: Mapping[Site, Tensor]) -> Tensor | None:
    """The activation that the dictionary would encode if it explained this site."""
    read = seen.get(read_by(dictionary, there)) if there.kind == "mlp" or not dictionary.transcodes else None
    return read if read is not None and read.shape[1] == dictionary.read_width else None


def _known(figure: float) -> float:
    return math.inf if math.isnan(figure) else figure


def fault_at(site: Site, fit: Fit, where: str) -> str:
    """The message about the dictionary at `site`, which does not fit."""
    return (
        f"site {site}: its dictionary leaves {percent(fit.unexplained)} of the variance unexplained on {where} "
        f"(the site's mean alone would leave 100%); {fit.fault}"
    )
