"""How much is held at once: batches and rows that fit, kept states, dense features."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import featcircuits as fc
from featcircuits.effects import nodes as effects
from featcircuits.effects.results import NodeEffects
from featcircuits.splicing import memory
from featcircuits.splicing.memory import rows_at_once
from featcircuits.states import states
from featcircuits.states.states import fitting_batch
from tests.tiny import random_task, spliced_model, tiny_model, traced

ESTIMATORS = ("exact", "atp", "ig", "ig-inputs", "relp", "atp-drop")


def all_effects(found: NodeEffects) -> torch.Tensor:
    parts = [[found.features(site).flatten(), found.error(site).flatten()] for site in found.sites]
    return torch.cat([part for pair in parts for part in pair])


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_small_memory_changes_no_effect(estimator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row a forward and one row of dense features at a time."""
    spliced, task = spliced_model(tiny_model("gpt2")), random_task(3, 4)
    whole = all_effects(fc.node_effects(spliced, task, estimator))
    monkeypatch.setattr(memory, "_ROW_BYTES", 1)
    monkeypatch.setattr(states, "DENSE_NUMBERS", 1)
    assert rows_at_once(spliced, 4, most=512) == 1
    torch.testing.assert_close(all_effects(fc.node_effects(spliced, task, estimator)), whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("ablation", ["mean", "zero", "paired", "resample"])
def test_a_small_memory_changes_no_faithfulness(ablation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spliced, task = spliced_model(tiny_model("llama")), random_task(4, 4)
    circuit = traced(spliced, task, nodes="atp", keep_nodes="top=40")
    options: dict[str, Any] = {"ablation": ablation, "sizes": (5, 20, 40), "draws": 1}
    whole = fc.evaluate(spliced, circuit, task, **options)
    monkeypatch.setattr(memory, "_ROW_BYTES", 1)
    monkeypatch.setattr(states, "DENSE_NUMBERS", 1)
    monkeypatch.setattr("featcircuits.evaluation.ablated.DENSE_NUMBERS", 1)
    again = fc.evaluate(spliced, circuit, task, **options)
    assert again.F_circuit == pytest.approx(whole.F_circuit, rel=1e-9)
    assert again.F_complement == pytest.approx(whole.F_complement, rel=1e-9)
    assert again.curve is not None
    assert whole.curve is not None
    assert again.curve.faithfulness == pytest.approx(whole.curve.faithfulness, rel=1e-7, nan_ok=True)


def test_longer_prompts_come_in_smaller_batches() -> None:
    spliced = spliced_model(tiny_model("gpt2"), sites=["mlp_0"])
    sizes = [rows_at_once(spliced, slots, most=512, gradients=True) for slots in (8, 512, 4096, 1 << 16)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 512
    assert sizes[-1] == 1
    assert rows_at_once(spliced, 512, most=10_000) > rows_at_once(spliced, 512, most=10_000, gradients=True)
    assert fitting_batch(spliced, random_task(2, 4), None) == 16
    assert fitting_batch(spliced, random_task(2, 4), 3) == 3


def test_states_are_kept_only_where_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    spliced, task = spliced_model(tiny_model("gpt2")), random_task(6, 4)
    kept = fc.node_effects(spliced, task, "atp", batch_size=2)
    assert sorted(kept.kept) == [0, 1, 2]
    edges = fc.edge_effects(spliced, task, kept, node_threshold=0.01)
    monkeypatch.setattr(effects, "KEPT_BYTES", 1)
    none = fc.node_effects(spliced, task, "atp", batch_size=2)
    assert none.kept == {}
    again = fc.edge_effects(spliced, task, none, node_threshold=0.01)
    assert list(again.edges()) == list(edges.edges())


def test_only_the_strongest_sources_of_a_target_are_kept() -> None:
    """In one batch that is exact: the same edges as the strongest of all of them."""
    spliced, task = spliced_model(tiny_model("gpt2")), random_task(3, 4)
    found = fc.node_effects(spliced, task, "atp")
    every = fc.edge_effects(spliced, task, found, node_threshold=0.02)
    kept = fc.edge_effects(spliced, task, found, node_threshold=0.02, sources_per_target=3)
    for up, down in (("resid_0", "resid_1"), ("mlp_1", "resid_1"), ("resid_0", "mlp_1")):
        index, value = every.coo(up, down)
        some, some_value = kept.coo(up, down)
        all_edges = dict(zip(map(tuple, index.T.tolist()), value.tolist(), strict=True))
        few = dict(zip(map(tuple, some.T.tolist()), some_value.tolist(), strict=True))
        targets = {edge[:2] for edge in all_edges}
        assert targets == {edge[:2] for edge in few}
        assert all(all_edges[edge] == value for edge, value in few.items())
        for target in targets:
            assert sum(edge[:2] == target for edge in few) == min(3, sum(edge[:2] == target for edge in all_edges))


def test_effects_of_another_task_are_refused() -> None:
    spliced = spliced_model(tiny_model("gpt2"))
    effects = fc.node_effects(spliced, random_task(3, 4), "atp")
    with pytest.raises(fc.InputError, match="effects are of 3 other examples"):
        fc.edge_effects(spliced, random_task(4, 4), effects, node_threshold=0.1)
