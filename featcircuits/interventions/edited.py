"""Runs of the model with interventions made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.dictionaries.decomposition import rewired
from featcircuits.interventions.held import holding
from featcircuits.interventions.intervention import DIRECT
from featcircuits.interventions.moves import Change, Given, changes_of, moved
from featcircuits.interventions.parts import Part
from featcircuits.interventions.sources import Prompts
from featcircuits.interventions.where import Frame
from featcircuits.model.sites import Site
from featcircuits.splicing.finite import check_finite
from featcircuits.splicing.spliced import Arrival, ReadingEdit, SplicedModel


class Run(NamedTuple):
    """A run's logits at each prompt's last token [row, vocabulary], and what arrived at each spliced site."""

    logits: Tensor
    arrived: Mapping[Site, Arrival]


Turn = Callable[[Change], Change]
"""A change to make in place of another one."""


def edit_of(
    spliced: SplicedModel, parts: Sequence[Part], frame: Frame, given: Given, turn: Turn | None = None
) -> ReadingEdit:
    """The edit that makes the parts' changes to what arrives, so that they compose in forward order."""
    at: dict[Site, list[Part]] = {}
    for part in parts:
        at.setdefault(part.site, []).append(part)

    def edit(site: Site, x: Tensor, read: Tensor) -> Tensor:
        if site not in at:
            return x
        changes = changes_of(at[site], spliced.dictionaries[site], x, read, frame, given)
        return moved(x, changes if turn is None else [turn(change) for change in changes])

    return edit


@dataclass(frozen=True, eq=False)
class Edited:
    """Runs of the same prompts with parts of interventions, while something is held at its unedited value."""

    spliced: SplicedModel
    prompts: Prompts
    unedited: Run
    direct: bool

    def run(self, parts: Sequence[Part], given: Given, turn: Turn | None = None) -> Run:
        """The run with the parts' changes, or with what `turn` makes of them."""
        edit = edit_of(self.spliced, parts, self.prompts.frame, given, turn)
        return _run(self.spliced, self.prompts, self._held(edit) if self.direct else edit)

    def _held(self, edit: ReadingEdit) -> ReadingEdit:
        """The edit, but of the unedited activation, so that every node that it does not change is as it was."""

        def held(site: Site, x: Tensor, read: Tensor) -> Tensor:
            before = self.unedited.arrived[site]
            passed = rewired(self.spliced.dictionaries[site], before.x, before.read, read)
            changed = edit(site, before.x, before.read)
            return passed if changed is before.x else passed + (changed - before.x)

        return held


@contextmanager
def edited(spliced: SplicedModel, prompts: Prompts, held: str) -> Iterator[Edited]:
    """A context for edited runs of some prompts; hooks that hold patterns and norms are on the model only inside.

    Raises `InputError` if activations are not finite, or the model's attention or norms cannot be held.
    """
    with holding(spliced.model, spliced.architecture, held):
        unedited = _run(spliced, prompts, lambda site, x, read: x)
        check_finite(unedited.logits, {site: arrived.x for site, arrived in unedited.arrived.items()})
        yield Edited(spliced, prompts, unedited, held == DIRECT)


def _run(spliced: SplicedModel, prompts: Prompts, edit: ReadingEdit) -> Run:
    arrived: dict[Site, Arrival] = {}

    def noting(site: Site, x: Tensor, read: Tensor) -> Tensor:
        arrived[site] = Arrival(x, read)
        return edit(site, x, read)

    with torch.no_grad():
        logits = spliced.run_reading(prompts.tokens, noting, answers_only=True)
    return Run(logits, arrived)
