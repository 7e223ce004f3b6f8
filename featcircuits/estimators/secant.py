"""Secants (DeepLIFT's rescale rule, Shrikumar et al. 2017): finite slopes between both runs in place of gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from featcircuits.errors import InputError
from featcircuits.model.sites import Site
from featcircuits.propagation import secants
from featcircuits.splicing.spliced import SplicedModel, gradients
from featcircuits.states.states import States


@dataclass(frozen=True)
class Secant:
    """coefficient = what a backward pass of m brings to x, each module passing on its secant.

    A module's secant takes its change between the clean and the corrupted run exactly to that of its
    output (`featcircuits.propagation.secant`), and so does m's. Effects of all nodes of a full cut
    therefore add up to m(corrupted) - m(clean). Two forwards and one backward for all sites.
    """

    baselines: ClassVar[tuple[str, ...]] = ("paired",)

    @contextmanager
    def propagation(self, spliced: SplicedModel, states: States) -> Iterator[States]:
        """Secants on the model and in m; raises `InputError` where prompts have no pair."""
        if states.batch.corrupted is None:
            raise InputError("method 'secant' goes from the clean to the corrupted prompt, and the task has none")
        with secants(spliced.model, spliced.architecture):
            with torch.no_grad():
                toward = spliced.run(states.batch.corrupted, answers_only=True)
            yield replace(states, objective=states.objective._replace(toward=toward))

    def coefficients(self, spliced: SplicedModel, states: States) -> dict[Site, Tensor]:
        """[example, slot, width] at every site."""
        with self.propagation(spliced, states) as between:
            return gradients(spliced, states.batch.clean, between.objective, spliced.sites)
