"""Noising and denoising, what they say together, and the bound on what was missed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import featcircuits as fc
from featcircuits.checks.bound import bound_missed, bound_of
from featcircuits.checks.patching import Patching, patch, swapped
from featcircuits.dictionaries import relu
from featcircuits.model.nodes import Node
from featcircuits.model.sites import Site
from featcircuits.splicing.spliced import SplicedModel
from tests.tiny import FAMILIES, LAYERS, WIDTH, made_linear, n_hooks, random_task, spliced_model, tiny_model, tolerance


def some_nodes(spliced: SplicedModel, task: fc.Task, count: int = 12) -> dict[Node, float]:
    """The strongest nodes with their exact effects."""
    ranked = sorted(fc.node_effects(spliced, task, "exact").nodes(), key=lambda row: -abs(row[1]))
    return {node: effect for node, effect, _ in ranked[:count]}


@pytest.mark.parametrize("family", FAMILIES)
def test_noising_one_node_is_exact_patching_and_denoising_its_mirror(family: str) -> None:
    spliced, task = spliced_model(tiny_model(family)), random_task(3, 4)
    nodes = some_nodes(spliced, task)
    found = patch(spliced, task, nodes)
    backwards = {node: effect for node, effect, _ in fc.node_effects(spliced, swapped(task), "exact").nodes()}
    scale = max(map(abs, nodes.values()))
    for one in found.single:
        (node,) = one.nodes
        noised, denoised = one.noising[task.metric], one.denoising[task.metric]
        assert noised.change == pytest.approx(nodes[node], abs=10 * tolerance(family) * scale)
        assert -denoised.change == pytest.approx(backwards.get(node, 0.0), abs=10 * tolerance(family) * scale)
    assert n_hooks(spliced.model) == 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("metric", ["logit_difference", "log_probability", "probability", "kl"])
def test_patching_a_whole_cut_is_the_other_run(family: str, metric: str) -> None:
    spliced, task = spliced_model(tiny_model(family)), random_task(3, 4)
    site = Site.parse(f"resid_{LAYERS - 2}")
    features = range(spliced.dictionaries[site].n_features)
    cut = [Node(site, feature, place) for feature in (*features, None) for place in range(4)]
    found = patch(spliced, task, cut, metrics=[metric, "probability_difference"])
    if metric != "kl":  # kl is 0 in both runs: each is compared with its own
        total = found.F_clean[metric] - found.F_corrupted[metric]
        assert found.joint.noising[metric].change == pytest.approx(total, rel=1e-5, abs=1e-9)
        assert found.joint.denoising[metric].change == pytest.approx(total, rel=1e-5, abs=1e-9)
    both = found.joint.noising["probability_difference"], found.joint.denoising["probability_difference"]
    assert both[0].change == pytest.approx(both[1].change, rel=1e-5, abs=1e-9)


def test_on_a_linear_model_directions_agree_and_nothing_is_joint() -> None:
    spliced, task = spliced_model(made_linear(tiny_model("gpt2")), sites=["resid_1"]), random_task(3, 4)
    found = patch(spliced, task, some_nodes(spliced, task))
    for one in (*found.single, found.joint):
        noised, denoised = one.noising[task.metric], one.denoising[task.metric]
        assert noised.change == pytest.approx(denoised.change, rel=1e-9)
    assert found.synergy(task.metric) == pytest.approx((0, 0), abs=1e-9)


class Gate(nn.Module):
    """Writes a function of two coordinates of the stream into a third."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        out[..., 5] = self.function(x[..., 0], x[..., 1])
        return out


def gated(function: Callable[[Tensor, Tensor], Tensor]) -> Patching:
    """Two features, both on in the clean prompt and off in the corrupted one, read by a gate alone."""
    model = made_linear(tiny_model("gpt2"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        words = model.get_input_embeddings().weight
        assert isinstance(words, Tensor)
        words[1, :2] = 1.0
        words[3, 5] = 1.0
    model.get_submodule(f"transformer.h.{LAYERS - 1}").mlp = Gate(function)
    unit = torch.eye(WIDTH, dtype=torch.float64)[:2]
    zeros = torch.zeros(2, dtype=torch.float64), torch.zeros(WIDTH, dtype=torch.float64)
    spliced = fc.load(model, {"resid_1": relu(unit.T.contiguous(), zeros[0], unit, zeros[1])}, check=False)
    task = fc.Task.from_tokens([[9, 1], [8, 1]], [[9, 2], [8, 2]], [3, 3], [4, 4])
    return patch(spliced, task, [Node(Site.parse("resid_1"), feature, 1) for feature in (0, 1)])


GATES = {
    "and": lambda a, b: a * b,
    "or / backup": lambda a, b: a + b - a * b,
    "needed and enough": lambda a, b: a + b,
    "": lambda a, b: a * 0,
}


@pytest.mark.parametrize("name", GATES)
def test_planted_gates_are_told_apart(name: str) -> None:
    found = gated(GATES[name])
    assert [one.note("logit_difference") for one in found.single] == [name, name]
    noising, denoising = found.synergy("logit_difference") if name else (0.0, 0.0)
    assert (noising, denoising) == pytest.approx({"and": (-1, 1), "or / backup": (1, -1)}.get(name, (0, 0)))


def test_what_cannot_be_patched_is_refused() -> None:
    spliced, task = spliced_model(tiny_model("gpt2"), sites=["mlp_0"]), random_task(2, 4)
    node = Node(Site.parse("mlp_0"), 1, 2)
    unpaired = fc.Task.from_tokens([[1, 2, 3]], None, [4], [5])
    for arguments, message in (
        ((unpaired, [node]), "there are no pairs"),
        ((task, [node._replace(site=Site.parse("mlp_1"))]), "no dictionary at mlp_1"),
        ((task, [node._replace(feature=99)]), "node mlp_0/99@2 does not exist"),
        ((task, []), "no nodes to patch"),
    ):
        with pytest.raises(fc.InputError, match=message):
            patch(spliced, *arguments)
    with pytest.raises(fc.InputError, match="unknown metric 'loss'"):
        patch(spliced, task, [node], metrics=["loss"])


# --- the bound


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), hidden=st.sampled_from([0.0, 0.3, 1.0]))
def test_the_bound_covers_a_hidden_node(seed: int, hidden: float) -> None:
    """Additive effects with noise: one larger node among a hundred small ones."""
    rng = np.random.default_rng(seed)
    effects = rng.normal(0, 0.01, 120)
    effects[17] = hidden
    coins = rng.random((400, 120)) < 0.2
    results = 5 - coins @ effects + rng.normal(0, 0.05, 400)
    theta, estimates = bound_of(results, coins, 0.99)
    assert theta >= 0.9 * np.abs(effects).max()
    assert theta < hidden + 0.2
    if hidden:
        assert int(np.abs(estimates).argmax()) == 17
        assert estimates[17] == pytest.approx(hidden, abs=0.06)


def test_the_bound_is_welchs_t_by_hand() -> None:
    from scipy.stats import t, ttest_ind

    rng = np.random.default_rng(0)
    coins = rng.random((50, 1)) < 0.4
    results = rng.normal(0, 1, 50) - 0.5 * coins[:, 0]
    theta, estimates = bound_of(results, coins, 0.95)
    inside, outside = results[coins[:, 0]], results[~coins[:, 0]]
    test = ttest_ind(outside, inside, equal_var=False)
    error = np.sqrt(inside.var(ddof=1) / len(inside) + outside.var(ddof=1) / len(outside))
    assert estimates[0] == pytest.approx(outside.mean() - inside.mean())
    assert theta == pytest.approx(abs(estimates[0]) + t.ppf(0.95, test.df) * error)  # type: ignore[attr-defined]


def test_nodes_that_were_not_sampled_are_not_bounded() -> None:
    coins = np.zeros((20, 2), dtype=bool)
    coins[:10, 0] = True
    theta, _ = bound_of(np.arange(20.0), coins, 0.99)
    assert theta == np.inf


def test_subset_sampling_on_a_model_finds_the_node_left_out() -> None:
    spliced, task = spliced_model(tiny_model("gpt2"), sites=["resid_1"]), random_task(2, 4)
    effects = fc.node_effects(spliced, task, "exact")
    ranked = sorted(effects.nodes(), key=lambda row: -abs(row[1]))
    hidden, size = ranked[0][0], abs(ranked[0][1])
    verified = [node for node, _, _ in ranked[1:6]]
    found = bound_missed(spliced, task, effects, verified, samples=300, share=0.2)
    assert found.theta >= size * 0.5
    assert hidden in [node for node, _ in found.suspects[:4]]
    assert not {node for node, _ in found.suspects} & set(verified)
    assert "random contexts" in found.caveat
    again = bound_missed(spliced, task, effects, verified, samples=300, share=0.2, max_rows=64)
    assert again.theta == pytest.approx(found.theta)
    without = bound_missed(spliced, task, effects, [hidden, *verified], samples=300, share=0.2)
    assert without.theta < found.theta
    out_of_range: tuple[dict[str, Any], ...] = (
        {"share": 1.5}, {"samples": 3}, {"samples": 10**9}, {"confidence": 1.0}, {"seed": -1},
    )  # fmt: skip
    for wrong in out_of_range:
        with pytest.raises(fc.InputError, match=f"{next(iter(wrong))} is .*; it must be at least"):
            bound_missed(spliced, task, effects, verified, **wrong)
