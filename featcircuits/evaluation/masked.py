"""The ablated model under masks of real numbers, and the gradient of the behaviour at them.

A node at mask z takes z of what it computes and 1 - z of its ablation value, so masks of 0 and 1 are
circuits (`featcircuits.evaluation.ablated`). dF/dz of a node at 1 is what the circuit would lose
without it, to first order, with everything outside the circuit ablated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.dictionaries import Dictionary
from featcircuits.dictionaries.decomposition import precision
from featcircuits.evaluation.ablated import AblatedModel, objective_of
from featcircuits.evaluation.ablations import Values
from featcircuits.model.sites import Site, resid
from featcircuits.splicing.spliced import Start, frozen
from featcircuits.states.baselines import Patched
from featcircuits.states.states import Objective
from featcircuits.tasks.task import Batch, Task

Masks = Mapping[Site, Tensor]
"""Per site [place, n_features + 1], the error's last."""


class Prepared(NamedTuple):
    """A batch with its ablation values, ready to run under any mask."""

    batch: Batch
    values: Values
    objective: Objective
    model: Tensor
    """F of the unedited model [example]"""
    start: Start | None = None
    """Where runs begin: layers before it are given."""


def prepare(ablated: AblatedModel, task: Task) -> Iterator[Prepared]:
    """Every batch of a task; dense features of a whole batch are held at each site in a backward pass."""
    for batch in task.batches(ablated.batch_size):
        batch = batch.to(ablated.spliced.device).narrowed(task.metric)
        before = [resid(ablated.start_layer - 1)] if ablated.start_layer else []
        logits, seen = ablated.spliced.record(batch.clean, before)
        objective = objective_of(task, batch, logits)
        values = ablated.ablation.values(ablated.spliced, task, batch)
        start = Start(ablated.start_layer, seen[before[0]]) if before else None
        yield Prepared(batch, values, objective, -objective(logits), start)


def masked_metric(ablated: AblatedModel, prepared: Prepared, masks: Masks) -> Tensor:
    """F [example], differentiable in the masks."""
    places = prepared.batch.places
    rows = torch.arange(places.numel(), device=places.device).view_as(places)

    def mix(site: Site, x: Tensor, read: Tensor) -> Tensor:
        mask = masks[site][places.clamp(min=0)]
        if ablated.errors != "nodes":
            mask = torch.cat([mask[..., :-1], torch.full_like(mask[..., -1:], float(ablated.errors == "keep"))], -1)
        mixed = _mixed(ablated.spliced.dictionaries[site], x, read, prepared.values(site), rows, mask)
        return torch.where(places[..., None] >= 0, mixed.to(x.dtype), x)

    with torch.enable_grad(), frozen(ablated.spliced.model):
        logits = ablated.spliced.run_reading(prepared.batch.clean, mix, start=prepared.start, answers_only=True)
        return -prepared.objective(logits)


def mask_gradients(ablated: AblatedModel, prepared: Prepared, masks: Masks) -> dict[Site, Tensor]:
    """dF/dz summed over the batch's examples, in the shape of the masks."""
    leaves = {site: mask.detach().requires_grad_() for site, mask in masks.items()}
    total = masked_metric(ablated, prepared, leaves).sum()
    return dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))


def _mixed(dictionary: Dictionary, x: Tensor, read: Tensor, value: Patched, rows: Tensor, mask: Tensor) -> Tensor:
    """x [example, slot, width] under a mask [example, slot, n_features + 1]: multilinear between all circuits.

    At 0 and 1 this is what `AblatedModel` computes: z_e (x + what the ablated features change) +
    (1 - z_e) (y less what the kept features change), and a bypass goes on with what arrives.
    """
    wide = precision(x.dtype)
    x, read, mask = x.to(wide), read.to(wide), mask.to(wide)
    feature, error = mask[..., :-1], mask[..., -1:]
    y = value.x_at(dictionary, rows, read).to(wide)
    past = dictionary.bypass(read) if dictionary.has_bypass else None
    change = value.features_at(dictionary, rows.flatten()) - dictionary.encode(read).flatten(0, 1)
    change = change.view_as(feature)
    statistics = dictionary.statistics(read)
    own = 1.0 if statistics is None else statistics.scale
    other = own if value.scale is None else value.scale
    moved = change * (error * (1 - feature) * own - (1 - error) * feature * other)
    return error * x + (1 - error) * (y if past is None else y + past) + dictionary.decode_change(moved)
