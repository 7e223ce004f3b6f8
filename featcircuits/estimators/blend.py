"""Blends of an estimator that is accurate for small moves and one that is accurate for large moves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.dictionaries.decomposition import precision
from featcircuits.errors import InputError
from featcircuits.estimators.estimator import Estimator, need_baseline
from featcircuits.model.sites import Site, resid
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.splicing.starts import entry_site
from featcircuits.states.baselines import Baseline
from featcircuits.states.contraction import SiteEffects, contract, nodewise
from featcircuits.states.states import States
from featcircuits.tasks.task import Task


@dataclass(frozen=True)
class Blend(Estimator):
    """effect = near + s (far - near), where s is the node's share of the change of its residual stream.

    A feature moves the stream a little, and the gradient at the clean run is accurate for it; a whole output moves
    it all the way, and there a secant is accurate. If D is the stream's change between the two runs just after
    the site, s = <what the node writes, D> / <D, D>. This is second order along the only direction whose
    curvature is known. The far estimate bends with the changes at all positions of the prompt, but
    a node is at only one of them: `share="prompt"` divides by |D| at the position times |D| of all positions
    together. The two agree if only one position changes; if many do, "prompt" ranks nodes better but
    underestimates whole outputs. `near`, `far`: estimators by name, with their default options.
    """

    near: str = "atp"
    far: str = "secant"
    share: str = "position"

    def __post_init__(self) -> None:
        super().__post_init__()
        others = [name for name in self.table if name != self.name]
        for name in (self.near, self.far):
            if name not in others:
                raise InputError(f"estimator 'blend' cannot use {name!r}; it blends two of {', '.join(others)}")
        if self.share not in SHARES:
            raise InputError(f"estimator 'blend': share is {self.share!r}; known: {', '.join(SHARES)}")

    def check(self, task: Task, baseline: Baseline) -> None:
        """Raise `InputError` if either of the two estimators cannot be used."""
        need_baseline(self, baseline, "paired")
        for part in self._parts():
            part.check(task, baseline)

    def effects(self, spliced: SplicedModel, states: States) -> dict[Site, SiteEffects]:
        """near + s (far - near), by site."""
        near, far = (part.effects(spliced, states) for part in self._parts())
        changes = _stream_changes(spliced, states)
        shares = {site: _shares(spliced, states, site, changes, self.share) for site in states.sites}
        return {site: nodewise(_blended, near[site], far[site], shares[site]) for site in states.sites}

    def _parts(self) -> list[Estimator]:
        return [self.table[name]() for name in (self.near, self.far)]


def _position(size: Tensor) -> Tensor:
    return size


def _prompt(size: Tensor) -> Tensor:
    return (size * size.sum(-1, keepdim=True)).sqrt()


SHARES: Mapping[str, Callable[[Tensor], Tensor]] = {"position": _position, "prompt": _prompt}
"""Name -> function of |D|^2 [example, slot] that gives the divisor of <node, D>."""


def _blended(near: Tensor, far: Tensor, s: Tensor) -> Tensor:
    return near + s * (far - near)


def _shares(
    spliced: SplicedModel, states: States, site: Site, changes: Mapping[Site, Tensor], share: str
) -> SiteEffects:
    """The share s of each feature entry [n] and of the error [example, slot]; 0 where the stream does not move."""
    state = states.sites[site]
    D, D_at_site = _change_after(spliced, states, site, changes)
    size = SHARES[share](D.square().sum(-1))
    inverse = torch.where(size > 0, 1 / size, 0.0)
    products = contract(state, spliced, site, D_at_site)
    return SiteEffects(products.features * inverse.flatten()[state.row], products.errors * inverse)


def _stream_changes(spliced: SplicedModel, states: States) -> dict[Site, Tensor]:
    """Corrupted minus clean activation [example, slot, width], with bypasses, at the sites that the shares need."""
    assert states.batch.corrupted is not None
    bypassed = {site for site, dictionary in spliced.dictionaries.items() if dictionary.has_bypass}
    needed = {_stream(spliced, site) for site in spliced.sites} | {site for site in bypassed if site.kind == "attn"}
    known = {site: states.sites[site].x_change for site in needed - bypassed if site in states.sites}
    missing = needed - known.keys()
    patched = spliced.record(states.batch.corrupted, missing)[1] if missing else {}
    wide = precision(spliced.model.dtype)
    real = (states.batch.clean.mask > 0)[..., None]
    clean = {**{site: state.x for site, state in states.sites.items()}, **states.streams}
    return known | {site: (x.to(wide) - clean[site].to(wide)) * real for site, x in patched.items()}


def _stream(spliced: SplicedModel, site: Site) -> Site:
    """The residual stream that contains what the site writes, or to which it is added next."""
    entry = entry_site(spliced, site)
    return resid(site.layer - 1) if entry.kind in ("attn", "attn_z") else entry


class _ChangeAfter(NamedTuple):
    """The stream's change just after a site."""

    D: Tensor
    at_site: Tensor
    """As a direction of the site's own activation"""


def _change_after(spliced: SplicedModel, states: States, site: Site, changes: Mapping[Site, Tensor]) -> _ChangeAfter:
    state, D = states.sites[site], changes[_stream(spliced, site)]
    if entry_site(spliced, site).kind == "attn":
        D = D + changes.get(site, state.x_change)
    if site.kind != "attn_z":
        return _ChangeAfter(D, D)

    # what the heads write is linear in them except for a post-norm, which is replaced by its slope at the clean run
    write = spliced.architecture.attention_write(spliced.model, site.layer)
    with torch.no_grad():
        written = write(state.x + state.x_change.to(state.x.dtype)) - write(state.x)
    D = D + written.to(D.dtype)
    _, at_site = torch.autograd.functional.vjp(write, state.x, D.to(state.x.dtype))
    assert isinstance(at_site, Tensor)
    return _ChangeAfter(D, at_site.to(D.dtype))
