"""The ablated model under masks of real numbers, and the gradient of the behaviour at them.

A node with mask z takes z times its computed value plus 1 - z times its ablation value, so masks of 0 and 1 are
circuits (`featcircuits.evaluation.ablated`). dF/dz of a node at 1 is, to first order, what the circuit would lose
without it, with everything outside the circuit ablated.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from featcircuits.dictionaries import Dictionary
from featcircuits.dictionaries.decomposition import precision
from featcircuits.evaluation.ablated import AblatedModel, Prepared, Subgraph
from featcircuits.model.frozen import frozen
from featcircuits.model.sites import Site
from featcircuits.states.baselines import Patched

Masks = Mapping[Site, Tensor]
"""Each node's mask, by site [place, n_features + 1]; the error node is last."""


def masks_of_circuit(ablated: AblatedModel, circuit: Subgraph) -> dict[Site, Tensor]:
    """1 at the nodes that are not ablated, else 0."""
    dtype, masks = precision(ablated.spliced.model.dtype), {}
    for site, ranks in circuit.ranks.items():
        places = torch.arange(len(ranks), device=ranks.device)
        masks[site] = circuit.keeps(site, ablated.error_nodes, places).to(dtype)
    return masks


def masked_metric(ablated: AblatedModel, prepared: Prepared, masks: Masks) -> Tensor:
    """F [example], differentiable with respect to the masks."""
    places = prepared.batch.places
    rows = torch.arange(places.numel(), device=places.device).view_as(places)

    def mix(site: Site, x: Tensor, read: Tensor) -> Tensor:
        mask = masks[site][places.clamp(min=0)]
        if ablated.error_nodes != "as-circuit":
            mask = torch.cat(
                [mask[..., :-1], torch.full_like(mask[..., -1:], float(ablated.error_nodes == "keep"))], -1
            )
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

    If z_i is the mask of feature i, z_e that of the error, and x, y, f, f' and d_i are as in
    `featcircuits.evaluation.ablated`, the two cases there become one:

        z_e x + (1 - z_e) (y + bypass(read)) + sum over i of (z_e (1 - z_i) - (1 - z_e) z_i) (f'_i - f_i) d_i
    """
    dtype = precision(x.dtype)
    x, read, mask = x.to(dtype), read.to(dtype), mask.to(dtype)
    z, z_e = mask[..., :-1], mask[..., -1:]
    y = value.x_at(dictionary, rows, read).to(dtype)
    bypass = dictionary.bypass(read) if dictionary.has_bypass else None

    change = value.features_at(dictionary, rows.flatten()) - dictionary.encode(read).flatten(0, 1)

    # d_i is in the units of x where the sum begins at x, and in those of y where it begins at y
    statistics = dictionary.statistics(read)
    x_scale = 1.0 if statistics is None else statistics.scale
    y_scale = x_scale if value.scale is None else value.scale
    steps = change.view_as(z) * (z_e * (1 - z) * x_scale - (1 - z_e) * z * y_scale)

    return z_e * x + (1 - z_e) * (y if bypass is None else y + bypass) + dictionary.decode_change(steps)
