"""Does a dictionary fit the activations it is spliced into? A check that costs no forward pass.

The figure is the share of variance left unexplained, `sum |error|^2 / sum |x - mean|^2` over tokens.
At 1 a dictionary does no better than the site's mean alone, so above it its features say nothing
about the activation: it belongs to another model, another site, or inputs of another scale. Tokens
far larger than the others are left out: attention sinks would decide the figure alone, and most
published dictionaries were not trained on them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from featcircuits.decomposition import encode, precision
from featcircuits.dictionaries import Dictionary
from featcircuits.errors import InputError
from featcircuits.sites import Site
from featcircuits.splice import SplicedModel
from featcircuits.states import SiteState, States

ABSURD = 1.0
"""The most variance a dictionary may leave unexplained; the mean alone leaves 1."""
MUCH_BETTER = 0.5
"""A dictionary that leaves at another site less than this share of what it leaves at its own is at the wrong one."""
OUTLIER = 10.0
"""Tokens whose activation is so many times the median's size are left out."""
REMEDY = "use the suite's own model and sites, or go on anyway with check_fit=False (--no-check-fit)"


class Fit(NamedTuple):
    """How well a dictionary fits its site, and the other site that it explains best (None: none was compared)."""

    unexplained: float
    other: Site | None = None
    unexplained_there: float = math.nan

    @property
    def misplaced(self) -> bool:
        """Whether it explains the other site much better than its own."""
        return self.unexplained_there < MUCH_BETTER * self.unexplained

    @property
    def fault(self) -> str:
        """What is wrong, or nothing."""
        if self.misplaced:
            return f"it explains {self.other} much better ({self.unexplained_there:.3g}) and seems to belong there"
        return "it belongs to another model or site, or to inputs of another scale" if self.unexplained > ABSURD else ""


def unexplained(x: Tensor, error: Tensor) -> float:
    """Share of the variance of x [token, width] that is left in `error`, outliers left out; NaN without variance."""
    size = x.norm(dim=1)
    usual = size <= OUTLIER * size.median()
    x, error = x[usual].double(), error[usual].double()
    variance = (x - x.mean(0)).square().sum().item()
    return error.square().sum().item() / variance if variance > 0 else math.nan


def fit_at(spliced: SplicedModel, site: Site, seen: Mapping[Site, Tensor]) -> Fit:
    """A dictionary at its own site and at all others that it could be meant for.

    `seen`: activations [token, width] by site. An autoencoder is tried at every site of its width,
    a transcoder at the places where another transcoder's input and output were seen.
    """
    dictionary, fits = spliced.dictionaries[site], {}
    for there, x in seen.items():
        read = _read(spliced, dictionary, there, seen)
        if there.kind != "mlp_in" and read is not None and x.shape[1] == dictionary.width:
            fits[there] = unexplained(x, encode(dictionary, x, read)[1])
    own = fits.pop(site)
    best = min(fits, key=lambda there: _known(fits[there]), default=None)
    return Fit(own) if best is None else Fit(own, best, fits[best])


def _read(spliced: SplicedModel, dictionary: Dictionary, there: Site, seen: Mapping[Site, Tensor]) -> Tensor | None:
    """What the dictionary would encode if it explained this site."""
    read = seen.get(Site(there.layer, "mlp_in")) if dictionary.transcodes and there.kind == "mlp" else None
    read = read if dictionary.transcodes else seen[there]
    return read if read is not None and read.shape[1] == dictionary.read_width else None


def _known(figure: float) -> float:
    return math.inf if math.isnan(figure) else figure


def check_states(spliced: SplicedModel, states: States, where: str) -> None:
    """Refuse dictionaries that leave more than all variance unexplained in a batch whose states are at hand.

    Raises `InputError` with the site, the figure and the remedy.
    """
    real = (states.batch.clean.mask > 0).flatten()
    for site, state in states.sites.items():
        dictionary = spliced.dictionaries[site]
        if dictionary.n_features == 0:
            continue  # a whole activation is its error by design
        x, error = (part[real] for part in _clean(dictionary, state))
        if unexplained(x, error) > ABSURD:
            fit = fit_at(spliced, site, _seen(spliced, states, real))
            raise InputError(f"{fault_at(site, fit, where)}; `featcircuits suites check` tells all sites; {REMEDY}")


def fault_at(site: Site, fit: Fit, where: str) -> str:
    """The message about a dictionary that does not fit."""
    return (
        f"site {site}: its dictionary leaves {fit.unexplained:.3g} of the variance unexplained on {where} "
        f"(its mean alone would leave 1); {fit.fault}"
    )


def _clean(dictionary: Dictionary, state: SiteState) -> tuple[Tensor, Tensor]:
    """The clean activation and its error [token, width], from the features that are there already."""
    x = state.x.flatten(0, 1)
    x = x.to(precision(x.dtype))
    read = state.read.flatten(0, 1).to(x.dtype)
    none = read.new_zeros(1, dictionary.n_features)
    explained = dictionary.write(state.scaled(state.value, state.row), state.row, state.feature, len(x))
    past = dictionary.bypass(read)
    explained = explained + dictionary.decode(none, dictionary.statistics(read))
    return x, x - explained - (0 if past is None else past)


def _seen(spliced: SplicedModel, states: States, real: Tensor) -> dict[Site, Tensor]:
    """What the states hold, for comparison: spliced sites, where they read, and the stream."""
    seen = dict(states.streams)
    for site, state in states.sites.items():
        seen |= {site: state.x, spliced.read_site(site): state.read}
    flat = {site: x.flatten(0, 1)[real] for site, x in seen.items()}
    return {site: x.to(precision(x.dtype)) for site, x in flat.items()}
