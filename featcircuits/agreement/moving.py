"""Which nodes move between the two runs of a pair: all others have no effect, whatever the method."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from featcircuits.effects.nodes import single
from featcircuits.model.sites import Site
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.states import states_of
from featcircuits.tasks.task import Task


def moving(spliced: SplicedModel, task: Task, batch_size: int) -> Mapping[Site, tuple[np.ndarray, np.ndarray]]:
    """Per site, in the order of `NodeEffects`: which feature entries [n] and errors [example, position] move."""
    found: dict[Site, list[tuple[Tensor, Tensor]]] = {site: [] for site in spliced.sites}
    for batch in task.batches(batch_size):
        states = states_of(spliced, task, batch)
        for site, state in states.sites.items():
            features, errors = (moves.double() for moves in state.moves())
            entries, aligned = single(states, state, features, errors, task.longest)
            found[site].append((entries[3], aligned))
    return {
        site: (torch.cat([f for f, _ in parts]).numpy() > 0, torch.cat([e for _, e in parts]).numpy() > 0)
        for site, parts in found.items()
    }
