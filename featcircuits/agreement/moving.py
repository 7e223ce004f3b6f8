"""The nodes and edges that move between the two runs of a pair; for all others every estimator gives 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from featcircuits.effects.direct import arcs_of
from featcircuits.effects.nodes import Single, single
from featcircuits.model.connections import Through
from featcircuits.model.nodes import METRIC, Node, Place
from featcircuits.model.sites import Site
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.contraction import SiteEffects
from featcircuits.states.states import states_of
from featcircuits.tasks.task import Task


def joined(spliced: SplicedModel, task: Task, nodes: Sequence[Node]) -> dict[tuple[Node, Node | str], bool]:
    """Every edge between connected sites, or from one to the metric -> whether its upstream end can move the other.

    This is judged by their places: only attention leads from one place to another, and never to an earlier one."""
    arcs = {(arc.upstream, arc.downstream): arc.through for arc in arcs_of(spliced)}
    last = task.longest - 1 if task.aggregate == "none" else None

    def reaches(through: Through, source: Place, target: Place) -> bool:
        if isinstance(source, int) and isinstance(target, int) and through == Through.ATTENTION:
            return source <= target
        return through == Through.ATTENTION or target is None or source == target

    found: dict[tuple[Node, Node | str], bool] = {}
    for source in nodes:
        for target in (*nodes, METRIC):
            node = target if isinstance(target, Node) else None
            through = arcs.get((source.site, None if node is None else node.site))
            if through is not None:
                found[source, target] = reaches(through, source.place, last if node is None else node.place)
    return found


def moving(spliced: SplicedModel, task: Task, batch_size: int) -> Mapping[Site, tuple[np.ndarray, np.ndarray]]:
    """Which feature entries [n] and errors [example, position] move, by site, in the order of `NodeEffects`."""
    batches: dict[Site, list[Single]] = {site: [] for site in spliced.sites}
    for batch in task.batches(batch_size):
        states = states_of(spliced, task, batch)
        for site, state in states.sites.items():
            features, errors = (moves.double() for moves in state.moves())
            batches[site].append(single(states, site, SiteEffects(features, errors), task.longest))
    return {
        site: (
            torch.cat([part.entries[3] for part in parts]).numpy() > 0,
            torch.cat([part.errors for part in parts]).numpy() > 0,
        )
        for site, parts in batches.items()
    }
