"""What interventions do to later features: predicted by edges, and measured with and without everything else held."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.effects.direct import arcs_of, batch_edges
from featcircuits.effects.ends import Ends, SiteEnds
from featcircuits.errors import InputError
from featcircuits.estimators.estimator import CoefficientEstimator
from featcircuits.interventions.edited import Run
from featcircuits.interventions.moves import Activation
from featcircuits.interventions.where import Frame
from featcircuits.model.nodes import Node
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.states import States


class Change(NamedTuple):
    """The change of each downstream node's value in each example [node, example]."""

    predicted: Tensor
    direct: Tensor
    measured: Tensor


def check_downstream(nodes: Sequence[Node]) -> None:
    """Raise `InputError` for errors, whose value is no number."""
    for node in nodes:
        if node.is_error:
            raise InputError(f"downstream node {node} is an error, whose value is a vector; give features")


def values(spliced: SplicedModel, run: Run, frame: Frame, nodes: Sequence[Node]) -> Tensor:
    """Each node's value, summed over the tokens of its place [node, example]."""
    columns, seen = [], {}
    for node in nodes:
        if node.site not in seen:
            arrived = run.arrived[node.site]
            x, read = (t.flatten(0, 1) for t in arrived)
            seen[node.site] = Activation(spliced.dictionaries[node.site], x, read).features
        column = seen[node.site][:, node.feature].view(frame.real.shape)
        columns.append((column * frame.at(node.place)).sum(-1).double().cpu())
    return torch.stack(columns)


def predicted_by_edges(
    spliced: SplicedModel, states: States, frame: Frame, estimator: CoefficientEstimator, nodes: Sequence[Node]
) -> Tensor:
    """The change of each node's value by its edges from what moves in `states` [node, example].

    With a coefficient c = d / |d|^2 at the node's site, d its decoder row, c . d is 1, and edges into the node are in
    units of its value. A feature that is not active in the clean run is predicted not to change.
    """
    arcs = arcs_of(spliced)
    found = torch.zeros(len(nodes), len(states.batch.index), dtype=torch.float64)
    coefficients = estimator.coefficients(spliced, states)
    with estimator.propagation(spliced, states) as between:
        for turn, node in enumerate(nodes):
            into = [arc for arc in arcs if arc.downstream == node.site]
            row = spliced.dictionaries[node.site].decoder_rows(torch.tensor([node.feature], device=frame.real.device))
            x = states.sites[node.site].x
            unit = (row / row.square().sum()).expand_as(x).to(states.sites[node.site].change.dtype)
            ends = _into(states, frame, node)
            for _, edges in batch_edges(spliced, between, {**coefficients, node.site: unit}, ends, into):
                scale = states.sites[node.site].scale
                value = edges.value if scale is None else edges.value / scale[edges.target_row]
                example = edges.target_row // frame.real.shape[1]
                found[turn].index_add_(0, example.cpu(), value.detach().double().cpu())
    return found


def _into(states: States, frame: Frame, node: Node) -> Ends:
    """Edges from everything into one feature, wherever it is active at its place."""
    here, ends = frame.at(node.place).flatten(), {}
    for site, state in states.sites.items():
        target = (state.feature == node.feature) & state.active & here[state.row] & (site == node.site)
        none, every = torch.zeros_like(here), torch.ones_like(here)
        ends[site] = SiteEnds(target, none, torch.ones_like(state.active), every)
    return ends
