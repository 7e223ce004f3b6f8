"""Controls: the same intervention on features that are as strong and as frequent there, and along random directions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from featcircuits.dictionaries import Dictionary
from featcircuits.dictionaries.decomposition import wide
from featcircuits.interventions.moves import Activation, Change
from featcircuits.interventions.parts import Part, random_like
from featcircuits.interventions.sources import Prompts
from featcircuits.interventions.where import ACTIVE, ALL, Frame
from featcircuits.model.nodes import Node
from featcircuits.model.sites import Site
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.baselines import DENSE_NUMBERS

_TINY = 1e-3
"""The smallest norm that counts in a comparison of norms, as a share of the activation's own."""


@dataclass(frozen=True, eq=False)
class Strength:
    """How strong and how frequent the features of a site are at the tokens that a part changes [n_features]."""

    density: Tensor
    """The share of these tokens at which each is active."""
    norm: Tensor
    """The mean norm of what each writes there."""
    row_norm: Tensor
    """The norm of one unit of each."""
    least: float
    """The norm below which two features count as equally weak."""

    def nearest(self, feature: int, leave_out: Iterable[int]) -> Tensor:
        """All other features, those first that are most like this one."""
        far = (self.density - self.density[feature]).abs()
        for norm, least in ((self.norm, self.least), (self.row_norm, 1e-12)):
            log = (norm + least).log()
            far = far + (log - log[feature]).abs()
        far[torch.tensor([feature, *leave_out], device=far.device)] = math.inf
        return far.argsort(stable=True)[: int(torch.isfinite(far).sum())]


def strengths(spliced: SplicedModel, parts: Sequence[Part], runs: Iterable[Prompts]) -> dict[Part, Strength]:
    """The strengths of features for every part that changes one; one unedited pass over the prompts."""
    wanted = [part for part in parts if part.feature is not None]
    totals: dict[Part, list[Tensor]] = {}
    for prompts in runs if wanted else ():
        sites = {part.site for part in wanted}
        _, seen = spliced.record(prompts.tokens, spliced.with_reads(sites))
        for part in wanted:
            dictionary = spliced.dictionaries[part.site]
            at = _changed(part, prompts.frame)
            x, read = (seen[site].flatten(0, 1)[at] for site in (part.site, spliced.read_site(part.site)))
            sums = _sums(dictionary, x, read)
            before = totals.get(part)
            totals[part] = sums if before is None else [a + b for a, b in zip(before, sums, strict=True)]
    return {part: _strength(spliced.dictionaries[part.site], sums) for part, sums in totals.items()}


def _changed(part: Part, frame: Frame) -> Tensor:
    """The flat positions that a part may change."""
    return frame.at(ALL if part.where == ACTIVE else part.where).flatten().nonzero()[:, 0]


def _sums(dictionary: Dictionary, x: Tensor, read: Tensor) -> list[Tensor]:
    """Sums over tokens: how often each feature is active, its size in decoder rows, the activation's norm, a count."""
    active = torch.zeros(dictionary.n_features, dtype=torch.float64, device=x.device)
    size, norm = active.clone(), active.new_zeros(())
    for begin in range(0, len(x), _rows(dictionary)):
        some = slice(begin, begin + _rows(dictionary))
        here = Activation(dictionary, wide(x[some]), wide(read[some]))
        features, scale = here.features, here.scale()
        active += dictionary.is_active(features).double().sum(0)
        size += (features.abs() if scale is None else features.abs() * scale).double().sum(0)
        norm = norm + here.x.norm(dim=-1).double().sum()
    return [active, size, norm, norm.new_tensor(float(len(x)))]


def _rows(dictionary: Dictionary) -> int:
    return max(1, DENSE_NUMBERS // max(1, dictionary.n_features))


def _strength(dictionary: Dictionary, sums: Sequence[Tensor]) -> Strength:
    active, size, norm, count = sums
    numbers = torch.arange(dictionary.n_features, device=active.device)
    rows = [dictionary.decoder_rows(some).norm(dim=-1).double() for some in numbers.split(_rows(dictionary))]
    row_norm, count = torch.cat(rows), count.clamp(min=1)
    return Strength(active / count, size / count * row_norm, row_norm, _TINY * float(norm / count))


def matched(parts: Sequence[Part], found: dict[Part, Strength], count: int) -> Iterator[list[Part]]:
    """The parts with every feature exchanged for one that is as strong and frequent, up to `count` times."""
    edited: dict[Site, set[int]] = {}
    for part in found:
        edited.setdefault(part.site, set()).add(part.feature or 0)
    queues = {part: iter(one.nearest(part.feature or 0, edited[part.site]).tolist()) for part, one in found.items()}
    for _ in range(count):
        taken: set[tuple[Site, int]] = set()
        exchanged = []
        for part in parts:
            feature = next((f for f in queues[part] if (part.site, f) not in taken), None) if part in found else None
            if part in found and feature is None:
                return
            if feature is not None:
                taken.add((part.site, feature))
                part = replace(part, what=Node(part.site, feature))
            exchanged.append(part)
        yield exchanged


def turned(change: Change, seed: int) -> Change:
    """The change along a random direction, as far as it goes."""
    direction = random_like(change.written.new_ones(change.written.shape[1]), seed * 1_000_003 + change.part.number)
    unit = direction / direction.norm()
    return change._replace(written=change.written.norm(dim=-1, keepdim=True) * unit)
