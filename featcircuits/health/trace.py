"""Whether the dictionaries of a trace fit, checked on its first batch without a forward pass."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from featcircuits.dictionaries import Dictionary
from featcircuits.dictionaries.decomposition import of_nothing, wide
from featcircuits.errors import InputError
from featcircuits.health.fit import ABSURD, REMEDY, fault_at, fit_at, unexplained
from featcircuits.health.misplaced import misplaced
from featcircuits.model.sites import Site
from featcircuits.splicing.sinks import bos_ids, usual_anywhere
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.states import SiteState, States


@torch.no_grad()
def check_states(spliced: SplicedModel, states: States, where: str) -> None:
    """Check the fit of every dictionary on the states of a batch.

    Raises `InputError` for a dictionary that leaves more than all variance unexplained. Warns, naming the sites, of
    dictionaries that explain another site much better than their own. `where`: the text's name in messages.
    """
    usual = usual_anywhere(states.batch.clean, bos_ids(spliced)).flatten()
    seen, own = _seen(spliced, states, usual), {}
    for site, state in states.sites.items():
        dictionary = spliced.dictionaries[site]
        if dictionary.n_features == 0:
            continue  # a whole output is its error by design
        x, error = (part[usual] for part in _clean(dictionary, state))
        own[site] = unexplained(x, error)
        if own[site] > ABSURD:
            fault = fault_at(site, fit_at(spliced, site, seen), where)
            raise InputError(f"{fault}; `featcircuits suites check` tells all sites; {REMEDY}")
    if found := misplaced(spliced, seen, own):
        (site, fit), *others = found.items()
        more = ", ".join(f"{other} (rather {at.other})" for other, at in others)
        warnings.warn(
            f"{fault_at(site, fit, where)}{f', likewise {more}' if more else ''}; put each dictionary at the site "
            "that it was trained at (`featcircuits suites check` tells all sites), or pass check_fit=False "
            "(--no-check-fit)",
            stacklevel=2,
        )


def _clean(dictionary: Dictionary, state: SiteState) -> tuple[Tensor, Tensor]:
    """The clean activation and its error [token, width], from the features in the state."""
    x = state.x.flatten(0, 1)
    x = wide(x)
    read = state.read.flatten(0, 1).to(x.dtype)
    explained = dictionary.write(state.scaled(state.value, state.row), state.row, state.feature, len(x))
    past = dictionary.bypass(read)
    return x, x - explained - of_nothing(dictionary, read) - (0 if past is None else past)


def _seen(spliced: SplicedModel, states: States, usual: Tensor) -> dict[Site, Tensor]:
    """The activations of the usual tokens: at spliced sites, where their dictionaries read, and in the stream."""
    seen = dict(states.streams)
    for site, state in states.sites.items():
        seen |= {site: state.x, spliced.read_site(site): state.read}
    flat = {site: x.flatten(0, 1)[usual] for site, x in seen.items()}
    return {site: wide(x) for site, x in flat.items()}
