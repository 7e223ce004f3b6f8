"""Exact activation patching: every node is patched alone, and the change of m is its effect."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from featcircuits.estimators.estimator import ROWS, Estimator
from featcircuits.model.sites import Site
from featcircuits.splicing.memory import rows_at_once
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.splicing.starts import entry_site, start_at
from featcircuits.states.contraction import SiteEffects
from featcircuits.states.states import SiteState, States
from featcircuits.states.tally import pieces


@dataclass(frozen=True)
class ExactPatching(Estimator):
    """effect = m(x | node takes its patched value) - m(x); one forward row per node that moves, 0 for other nodes.

    Rows are batched and start right after the patched site. Patching feature i adds its change times its
    decoder row; the error stays that of the clean run.
    """

    compared = ()
    has_edges = True

    def effects(self, spliced: SplicedModel, states: States) -> dict[Site, SiteEffects]:
        """The exact effect of every node, by site."""
        return {
            site: SiteEffects(_features(spliced, states, site, state), error_effects(spliced, states, site))
            for site, state in states.sites.items()
        }


def _features(spliced: SplicedModel, states: States, site: Site, state: SiteState) -> Tensor:
    """The effect of each feature entry [n]."""
    features = torch.zeros_like(state.change)
    for part in pieces((state.change != 0).nonzero()[:, 0], rows_at_once(spliced, state.slots, ROWS)):
        moves = spliced.dictionaries[site].decoder_rows(state.feature[part]) * state.step[part, None]
        features[part] = patched_metric(spliced, states, site, state.row[part], moves).to(features.dtype)
    return features


def error_effects(spliced: SplicedModel, states: States, site: Site) -> Tensor:
    """m(x | the error there takes its patched value) - m(x) [example, slot], with one forward row each."""
    state = states.sites[site]
    changes = state.error_change.flatten(0, 1)
    effects = torch.zeros_like(changes[:, 0])
    moving = (changes != 0).any(-1).nonzero()[:, 0]
    for part in pieces(moving, rows_at_once(spliced, state.slots, ROWS)):
        effects[part] = patched_metric(spliced, states, site, part, changes[part]).to(effects.dtype)
    return effects.view(state.x.shape[:2])


def patched_metric(spliced: SplicedModel, states: States, site: Site, rows: Tensor, moves: Tensor) -> Tensor:
    """m(x + move at one position) - m(x), for positions `rows` = example * slots + slot."""
    slots = states.sites[site].slots
    example, slot = rows // slots, rows % slots
    each = torch.arange(len(rows), device=rows.device)

    def move(site: Site, x: Tensor) -> Tensor:
        moved = x.clone()
        moved[each, slot] += moves.to(x.dtype)
        return moved

    entry = entry_site(spliced, site)
    begin = start_at(entry, lambda stream: states.streams[stream][example], move)
    with torch.no_grad():
        logits = spliced.run(
            states.batch.clean.select(example),
            move,
            sites=[entry],
            start=begin,
            answers_only=True,
        )
    return states.objective.select(example)(logits) - states.metric_clean[example]
