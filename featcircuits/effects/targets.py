"""Downstream ends of edges, and what each of them passes back to where its site reads."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.dictionaries import Dictionary
from featcircuits.effects.ends import SiteEnds
from featcircuits.splicing.spliced import Arrival
from featcircuits.states.contraction import passed_back
from featcircuits.states.states import SiteState


class Targets(NamedTuple):
    """Downstream nodes [n] of one site, with v_d [n, width] at what its dictionary reads."""

    row: Tensor
    node: Tensor
    v: Tensor


def targets_of(
    dictionary: Dictionary, state: SiteState, coefficient: Tensor, ends: SiteEnds, arrival: Arrival
) -> Targets:
    """The targets of a site with v_d, the part of the coefficient c that each passes back to where its site reads.

    x = sum over i of f_i d_i + B(read) + error, with decoder rows d_i and bypass B. An active feature has the
    gradient e_i, its encoder row, and the error is what features and bypass leave over of x:

        feature i:  v_i = (c . d_i) e_i
        error:      v_error = c J[x <- read] - sum over active i of v_i - c B

    J[x <- read] is the MLP's Jacobian at a transcoder, and else the identity.
    """
    c, read = (t.flatten(0, 1).to(state.change.dtype) for t in (coefficient, state.read))
    error_row = ends.target_errors.nonzero()[:, 0]

    # v_i of the targets, and of all active features at the row of an error that is a target
    beside_error = ends.target_errors[state.row] & state.active
    entries = (ends.target_entries | beside_error).nonzero()[:, 0]
    row, feature = state.row[entries], state.feature[entries]
    v = passed_back(dictionary, state, c, entries)

    # sum over active i of v_i + c B, at the rows of errors
    passed_by_others = torch.zeros_like(read).index_add_(0, row, v * beside_error[entries, None])[error_row]
    through_bypass = dictionary.pull_bypass(c[error_row])
    if through_bypass is not None:
        passed_by_others = passed_by_others + through_bypass

    target = ends.target_entries[entries]
    rows = torch.cat([row[target], error_row])
    nodes = torch.cat([feature[target], torch.full_like(error_row, dictionary.n_features)])
    at_read = _at_read(c, error_row, arrival) if dictionary.transcodes else c[error_row]
    return Targets(rows, nodes, torch.cat([v[target], at_read - passed_by_others]))


def _at_read(c: Tensor, error_row: Tensor, arrival: Arrival) -> Tensor:
    """c J[x <- read] at the rows of errors [n, width]: one pass for all of them, since an MLP does not mix rows."""
    if not len(error_row):
        return c.new_zeros(0, arrival.read.shape[-1])
    (pulled,) = torch.autograd.grad(
        arrival.x, arrival.read, c.view_as(arrival.x).to(arrival.x.dtype), retain_graph=True
    )
    return pulled.flatten(0, 1)[error_row].to(c.dtype)
