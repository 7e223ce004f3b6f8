"""The moves of a site: what parts of interventions add to its activation in a run.

A part has a value in every activation: a feature's or direction's is a number, an error's or site's a vector.
`how` turns the old value into the new one, and what the difference writes is added to the activation; so the error
stays as it is when a feature moves, and parts that do not change leave the activation as it is to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.dictionaries import Dictionary
from featcircuits.dictionaries.decomposition import encode, wide
from featcircuits.interventions.parts import Part
from featcircuits.interventions.where import ACTIVE, Frame
from featcircuits.model.nodes import Node
from featcircuits.states.baselines import DENSE_NUMBERS
from featcircuits.states.states import ROUNDING


@dataclass(frozen=True, eq=False)
class Activation:
    """The activation of a site at n tokens [n, width], and what the dictionary reads there [n, read_width]."""

    dictionary: Dictionary
    x: Tensor
    read: Tensor

    @cached_property
    def features(self) -> Tensor:
        """[n, n_features]"""
        return self._taken_apart[0]

    @cached_property
    def error(self) -> Tensor:
        """[n, width]"""
        return self._taken_apart[1]

    @cached_property
    def _taken_apart(self) -> tuple[Tensor, Tensor]:
        return encode(self.dictionary, self.x, self.read)

    def scale(self) -> Tensor | None:
        """The scale of decoder rows [n, 1]; None for 1."""
        statistics = self.dictionary.statistics(self.read)
        return None if statistics is None else statistics.scale

    def value(self, part: Part) -> Tensor:
        """The value of what a part changes: [n] for features and directions, [n, width] for errors and sites."""
        if part.feature is not None:
            return self.features[:, part.feature]
        if isinstance(part.what, Node):
            return self.error
        if part.vector is None:
            return self.x
        rows = self.rows(part)
        return (self.x * rows).sum(-1) / rows.square().sum(-1)

    def rows(self, part: Part) -> Tensor:
        """What one unit of a feature or direction writes [n or 1, width]."""
        scale = self.scale() if part.vector is None or part.in_units else None
        if part.vector is None:
            number = torch.tensor([part.feature], device=self.x.device)
            row = self.dictionary.decoder_rows(number).to(self.x.dtype)
        else:
            row = part.vector.to(self.x.dtype)[None]
        return row if scale is None else row * scale

    def written(self, part: Part, change: Tensor) -> Tensor:
        """What a change of the part's value adds to x [n, width]."""
        return change if change.ndim == 2 else change[:, None] * self.rows(part)


Given = Callable[[Part, Tensor, Frame, Activation], Tensor]
"""(part, flat positions row * slots + slot [n], frame, what arrives there) -> its value from elsewhere."""


class Change(NamedTuple):
    """The change of a part's value at some flat positions."""

    part: Part
    at: Tensor
    change: Tensor
    written: Tensor
    """What it adds to x [n, width]."""


def changes_of(
    parts: Sequence[Part], dictionary: Dictionary, x: Tensor, read: Tensor, frame: Frame, given: Given
) -> list[Change]:
    """The changes at one site of its parts; x [row, slot, width]. All of them start from the activation x."""
    x, read = wide(x).flatten(0, 1), wide(read).flatten(0, 1)
    on = [frame.at(part.where).flatten() for part in parts]
    size = max(1, DENSE_NUMBERS // max(1, dictionary.n_features))
    found = []
    for piece in torch.stack(on).any(0).nonzero()[:, 0].split(size):
        here = Activation(dictionary, x[piece], read[piece])
        for part, chosen in zip(parts, on, strict=True):
            inside = chosen[piece].nonzero()[:, 0]
            if len(inside):
                found.append(_changed(part, here, inside, piece[inside], frame, given))
    return found


def _changed(part: Part, here: Activation, inside: Tensor, at: Tensor, frame: Frame, given: Given) -> Change:
    old, local = here.value(part)[inside], Activation(here.dictionary, here.x[inside], here.read[inside])
    new = part.how(old, given(part, at, frame, local).to(old) if part.how.from_elsewhere else old)
    change = new - old
    if part.feature is not None:
        change = change.masked_fill(change.abs() <= _rounding(here.features[inside]), 0.0)
    if part.where == ACTIVE:
        change = change * here.dictionary.is_active(here.features)[inside, part.feature]
    return Change(part, at, change, local.written(part, change))


def _rounding(features: Tensor) -> Tensor:
    """How much features [n, n_features] may differ when they are computed again in a product of another shape [n]."""
    return ROUNDING * torch.finfo(features.dtype).eps * features.abs().amax(-1)


def moved(x: Tensor, changes: Sequence[Change]) -> Tensor:
    """x [row, slot, width] with the changes; x itself if there are none."""
    total = None
    for change in changes:
        if bool(change.written.any()):
            total = torch.zeros_like(wide(x)).flatten(0, 1) if total is None else total
            total.index_add_(0, change.at, change.written.to(total.dtype))
    return x if total is None else x + total.view_as(x).to(x.dtype)
