"""Masks of real numbers: at 0 and 1 the ablated model itself, and gradients that finite differences confirm."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featcircuits.evaluation.ablated import NEVER, AblatedModel, Subgraph
from featcircuits.evaluation.ablations import prepared_ablation
from featcircuits.evaluation.masked import mask_gradients, masked_metric
from featcircuits.evaluation.scope import scope_of
from tests.tiny import FAMILIES, LAYERS, random_task, spliced_model, tiny_model

EXACT = 1e-5
"""Metrics that transformers computes in part in float32."""


@given(
    family=st.sampled_from(FAMILIES),
    kind=st.sampled_from(["relu", "jumprelu", "topk"]),
    ablation=st.sampled_from(["mean", "zero", "resample", "paired"]),
    error_nodes=st.sampled_from(["as-circuit", "keep", "remove"]),
    aggregate=st.sampled_from(["none", "sum"]),
    start_layer=st.integers(0, LAYERS - 1),
    seed=st.integers(0, 5),
)
@settings(max_examples=30, deadline=None)
def test_masks_of_zero_and_one_are_circuits(
    family: str, kind: str, ablation: str, error_nodes: str, aggregate: str, start_layer: int, seed: int
) -> None:
    spliced = scope_of(spliced_model(tiny_model(family, seed), kind), start_layer)
    task = random_task(3, 4, seed, aggregate=aggregate)
    ablated = AblatedModel(
        spliced, prepared_ablation(ablation, spliced, task, 2, seed), error_nodes, start_layer, batch_size=2
    )
    generator = torch.Generator().manual_seed(seed)
    masks = {
        site: (torch.rand(len(task.places), dictionary.n_features + 1, generator=generator) < 0.7).double()
        for site, dictionary in spliced.dictionaries.items()
    }
    ranks = {site: torch.where(mask > 0, 0, NEVER) for site, mask in masks.items()}
    expected = ablated.metric(task, [Subgraph(ranks, 1)])[0]
    found = torch.cat([masked_metric(ablated, batch, masks) for batch in ablated.prepared(task)])
    torch.testing.assert_close(found.detach().double(), expected, atol=EXACT, rtol=EXACT)


@pytest.mark.parametrize("error_nodes", ["as-circuit", "remove"])
def test_gradients_are_finite_differences(error_nodes: str) -> None:
    spliced, task = spliced_model(tiny_model("gpt2")), random_task(3, 4)
    ablated = AblatedModel(spliced, prepared_ablation("mean", spliced, task, 3, 0), error_nodes, batch_size=3)
    (batch,) = ablated.prepared(task)
    generator = torch.Generator().manual_seed(0)
    masks, direction = (
        {
            site: torch.rand(len(task.places), d.n_features + 1, generator=generator, dtype=torch.float64)
            for site, d in spliced.dictionaries.items()
        }
        for _ in range(2)
    )
    step = 1e-6
    ends = [
        float(masked_metric(ablated, batch, {s: m + sign * step * direction[s] for s, m in masks.items()}).sum())
        for sign in (1, -1)
    ]
    gradients = mask_gradients(ablated, batch, masks)
    along = sum(float((gradients[site] * direction[site]).sum()) for site in masks)
    assert along == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5)
    if error_nodes == "remove":
        assert all(not gradient[:, -1].any() for gradient in gradients.values())


def test_a_toggled_node_is_the_other_way_round() -> None:
    ranks = {site: torch.arange(25, dtype=torch.int32)[None] for site in spliced_model(tiny_model("gpt2")).sites}
    site = next(iter(ranks))
    for rank, complement in ((3, False), (12, False), (3, True)):
        plain, toggled = (
            Subgraph(ranks, 10, complement, toggled=one).keeps(site, "nodes", torch.tensor([0])) for one in (None, rank)
        )
        np.testing.assert_array_equal((plain != toggled)[0].nonzero()[:, 0].numpy(), [rank])
