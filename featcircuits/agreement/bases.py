"""The bases of nodes: the suite's features, single neurons, or whole module outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from featcircuits.dictionaries import identity, whole
from featcircuits.errors import InputError
from featcircuits.model.sites import all_sites
from featcircuits.splicing.spliced import SplicedModel


def _features(spliced: SplicedModel) -> SplicedModel:
    return spliced


def _with_all(make: Callable[[int], Any]) -> Callable[[SplicedModel], SplicedModel]:
    def build(spliced: SplicedModel) -> SplicedModel:
        sites = all_sites(spliced.architecture.n_layers)
        dictionary = make(spliced.architecture.width).to(spliced.device, spliced.model.dtype)
        return replace(spliced, dictionaries=dict.fromkeys(sites, dictionary), suite=None)

    return build


BASES: Mapping[str, Callable[[SplicedModel], SplicedModel]] = {
    "features": _features,
    "neurons": _with_all(identity),
    "whole": _with_all(whole),
}


def check_basis(basis: str) -> None:
    """Raise `InputError` for an unknown name."""
    if basis not in BASES:
        raise InputError(f"unknown basis {basis!r}; known: {', '.join(BASES)}")


def in_basis(spliced: SplicedModel, basis: str) -> SplicedModel:
    """The same model in another basis; neurons and whole outputs at all its sites."""
    check_basis(basis)
    return BASES[basis](spliced)
