"""Secants: the linear maps between two runs, against explicit forwards and what they must add up to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import featcircuits as fc
from featcircuits.model.architecture import architecture_of
from featcircuits.model.sites import EMBED, Site, all_sites, resid
from featcircuits.model.tokens import Tokens
from featcircuits.propagation import secants
from featcircuits.propagation.attention_kernels import around_attention
from featcircuits.propagation.secant import logarithmic_mean, slope
from featcircuits.splicing.gradients import gradients
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.tasks.table import METRICS
from tests import explicit
from tests.test_propagation import in_float64
from tests.tiny import (
    EAGER_ONLY,
    FAMILIES,
    LAYERS,
    made_linear,
    n_hooks,
    random_task,
    spliced_model,
    tiny_model,
    tolerance,
)

CLEAN = Tokens.pad([[5, 9, 3, 7, 1], [8, 2, 6, 20, 4]], 0)
OTHER = Tokens.pad([[5, 11, 3, 7, 1], [8, 30, 6, 20, 4]], 0)


def metric(logits: Tensor) -> Tensor:
    return logits[..., 3] - logits[..., 7]


def capped(family: str, **options: Any) -> Any:
    """The family's model in float64 throughout, with caps on scores and logits where it may have them."""
    model = in_float64(tiny_model(family, **options))
    if family == "gemma3_text":
        model.config.final_logit_softcapping = 5.0
    if family == "gemma2":
        model.config.final_logit_softcapping = 5.0
        for layer in model.model.layers:
            layer.self_attn.attn_logit_softcapping = 2.0
        model.config.attn_logit_softcapping = 2.0
    return model


def coefficients(model: Any) -> dict[Site, Tensor]:
    bare = SplicedModel(model, architecture_of(model), {})
    with secants(model, bare.architecture):
        with torch.no_grad():
            bare.run(OTHER, answers_only=True)
        return gradients(bare, CLEAN, metric, all_sites(LAYERS))


@pytest.mark.parametrize("family", FAMILIES)
def test_secants_are_the_explicit_forward(family: str) -> None:
    """A change put in at a site and carried forward op by op, against the coefficients brought back to it."""
    model = capped(family)
    found = coefficients(model)
    generator = torch.Generator().manual_seed(0)
    for site in all_sites(LAYERS):
        direction = torch.randn(found[site].shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            logits = explicit.logits(model, CLEAN.ids, OTHER.ids, site, direction)
            torch.testing.assert_close(logits.clean, model(CLEAN.ids).logits, rtol=1e-9, atol=1e-9)
        expected = metric(logits.change[:, -1])
        torch.testing.assert_close((found[site] * direction).sum((1, 2)), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", METRICS)
def test_effects_of_a_full_cut_add_up_exactly(family: str, name: str) -> None:
    """Of all nodes of the embedding, and of every residual site, for every metric."""
    task = random_task(2, 5, metric=name)
    own = tiny_model(family)
    for model, share in ((capped(family), 1e-9), (own, tolerance(family))):
        spliced = spliced_model(model, sites=["embed", "attn_1", *(str(resid(layer)) for layer in range(LAYERS))])
        effects = fc.node_effects(spliced, task, "secant")
        total = effects.total_effect
        for site in spliced.sites:
            if site.kind in ("embed", "resid"):
                found = effects.features(site).sum((1, 2)) + effects.error(site).sum(1)
                # metrics keep the clean run's logits, their reference, in float32
                torch.testing.assert_close(found, total, rtol=0, atol=share * total.abs().max().item() + 1e-12)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_forward_values_do_not_change_to_the_last_bit(family: str, dtype: torch.dtype, attention: str) -> None:
    model = tiny_model(family, dtype=dtype)
    if family not in EAGER_ONLY:
        model.set_attn_implementation(attention)
    spliced = spliced_model(model)
    clean, other = spliced.run(CLEAN), spliced.run(OTHER)
    cap = getattr(model.config, "final_logit_softcapping", None)
    with secants(model, spliced.architecture):
        assert torch.equal(spliced.run(OTHER), other)
        assert torch.equal(spliced.run(CLEAN), clean)
        with torch.no_grad():
            assert torch.equal(spliced.run(CLEAN), clean)
    assert torch.equal(spliced.run(CLEAN), clean)
    assert n_hooks(model) == 0
    assert getattr(model.config, "final_logit_softcapping", None) == cap
    assert not {"eager", "sdpa"} & ALL_ATTENTION_FUNCTIONS._local_mapping.keys()


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_nothing_is_left_after_an_exception(family: str) -> None:
    model = tiny_model(family)

    def fail() -> None:
        with secants(model, architecture_of(model)):
            assert n_hooks(model) > LAYERS
            raise KeyError

    pytest.raises(KeyError, fail)
    assert n_hooks(model) == 0
    assert "eager" not in ALL_ATTENTION_FUNCTIONS._local_mapping
    assert getattr(model.config, "final_logit_softcapping", None) == (30.0 if family == "gemma2" else None)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in EAGER_ONLY])
def test_eager_and_sdpa_give_the_same_coefficients(family: str) -> None:
    model = tiny_model(family)
    eager = coefficients(model)
    model.set_attn_implementation("sdpa")
    for site, found in coefficients(model).items():
        torch.testing.assert_close(found, eager[site], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_between_a_run_and_itself_secants_are_gradients(family: str) -> None:
    model = capped(family)
    bare = SplicedModel(model, architecture_of(model), {})
    plain = gradients(bare, CLEAN, metric, all_sites(LAYERS))
    with secants(model, bare.architecture):
        bare.run(CLEAN, answers_only=True)
        found = gradients(bare, CLEAN, metric, all_sites(LAYERS))
    for site in plain:
        torch.testing.assert_close(found[site], plain[site], rtol=1e-7, atol=1e-8)


@given(
    family=st.sampled_from(FAMILIES),
    kind=st.sampled_from(["relu", "jumprelu", "topk"]),
    names=st.lists(st.sampled_from([str(s) for s in all_sites(LAYERS)]), min_size=1, max_size=6, unique=True),
    name=st.sampled_from(["logit_difference", "log_probability"]),
    seed=st.integers(0, 5),
)
@settings(max_examples=15, deadline=None)
def test_outgoing_edges_add_up_to_the_nodes_effect(
    family: str, kind: str, names: list[str], name: str, seed: int
) -> None:
    """The metric's edges too, where it reads sites that other sites read as well."""
    spliced, task = spliced_model(tiny_model(family, seed), kind, names), random_task(2, 4, seed, metric=name)
    nodes = fc.node_effects(spliced, task, "secant")
    total: dict[object, float] = {}
    for source, _, value in fc.edge_effects(spliced, task, nodes, node_threshold=0.0).edges():
        total[source] = total.get(source, 0.0) + value
    scale = max(abs(mean) for _, mean, _ in nodes.nodes())
    for node, mean, _ in nodes.nodes():
        assert total.get(node, 0.0) == pytest.approx(mean, abs=tolerance(family) * scale)
    assert n_hooks(spliced.model) == 0


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_batches_change_nothing(side: str) -> None:
    spliced = spliced_model(tiny_model("llama", dtype=torch.float32), sites=["embed", "mlp_0", "resid_1"])
    short, long = random_task(1, 4, seed=1), random_task(1, 7, seed=2)
    both = fc.Task((*short.examples, *long.examples), aggregate="sum", padding_side=side)
    together = fc.node_effects(spliced, both, "secant")
    for number, alone in enumerate((short, long)):
        expected = fc.node_effects(spliced, alone, "secant")
        for site in spliced.sites:
            found = together.features(site)[number, : alone.longest]
            torch.testing.assert_close(found, expected.features(site)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_secants_are_exact_on_a_linear_model(family: str) -> None:
    spliced, task = spliced_model(made_linear(tiny_model(family)), "jumprelu"), random_task(3, 5)
    exact, found = (fc.node_effects(spliced, task, estimator) for estimator in ("exact", "secant"))
    for site in spliced.sites:
        atol = tolerance(family) * exact.features(site).abs().max().item()
        torch.testing.assert_close(found.features(site), exact.features(site), rtol=0, atol=atol)
        torch.testing.assert_close(found.error(site), exact.error(site), rtol=0, atol=atol)


@given(
    gap=st.sampled_from([0.0, 1e-12, 1e-7, 1e-5, 1e-3, 1.0, 30.0]),
    start=st.floats(-20, 20),
    name=st.sampled_from(["tanh", "silu", "gelu"]),
)
@settings(max_examples=60, deadline=None)
def test_slopes_take_any_change_to_its_change(gap: float, start: float, name: str) -> None:
    """Also a change of nothing, whose slope is the derivative."""
    function = {"tanh": torch.tanh, "silu": torch.nn.functional.silu, "gelu": torch.nn.functional.gelu}[name]
    a = torch.tensor(start, dtype=torch.float64)
    found = slope(function, a, a + gap)
    change = function(a + gap) - function(a)
    assert (found * ((a + gap) - a) - change).abs() <= 1e-12 * max(1.0, abs(start))
    if gap < 1e-6:
        leaf = a.clone().requires_grad_()
        (derivative,) = torch.autograd.grad(function(leaf), leaf)
        assert found.item() == pytest.approx(derivative.item(), abs=1e-7)


def test_logarithmic_means_hold_for_any_two_probabilities() -> None:
    p = torch.tensor([0.5, 0.2, 1e-300, 0.9, 0.3], dtype=torch.float64)
    p2 = torch.tensor([0.1, 0.2, 0.7, 1e-12, 0.3 * (1 + 1e-10)], dtype=torch.float64)
    found = logarithmic_mean(p, p2, (p.log() - p2.log()).abs())
    torch.testing.assert_close(found * (p2.log() - p.log()), p2 - p, rtol=1e-5, atol=1e-15)
    assert found[1] == p[1]


def test_requests_without_a_second_run_are_refused() -> None:
    spliced, task = spliced_model(tiny_model("gpt2")), random_task(2, 4)
    for estimator in ("secant", "blend", "ig-conductance", "ig-chain"):
        with pytest.raises(fc.InputError, match=rf"estimator '{estimator}' .* needs pairs: baseline 'zero'"):
            fc.node_effects(spliced, task, estimator, baseline="zero")
    with pytest.raises(fc.InputError, match="needs pairs: baseline 'mean'"):
        fc.edge_effects(spliced, task, [], "secant", baseline="mean")


def test_attention_that_no_function_can_be_put_around_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = tiny_model("llama")
    monkeypatch.setattr(type(closed), "_supports_attention_backend", False)
    refused = pytest.raises(fc.InputError, match="LlamaForCausalLM computes attention by itself")
    with refused, around_attention(closed, architecture_of(closed), max):
        pass
    monkeypatch.undo()
    flash = tiny_model("llama")
    flash.config._attn_implementation = "flash_attention_2"
    with (
        pytest.raises(fc.InputError, match="'flash_attention_2' cannot be opened"),
        secants(flash, architecture_of(flash)),
    ):
        pass
    assert n_hooks(flash) == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_a_compiled_model_is_refused() -> None:
    model = tiny_model("gpt2")
    model.transformer.h[1].compile()
    with pytest.raises(fc.InputError, match="is compiled"), secants(model, architecture_of(model)):
        pass


def test_the_embedding_is_not_the_only_site() -> None:
    """Secants differ from gradients and from the relevance rules, or the tests above say nothing."""
    spliced, task = spliced_model(tiny_model("qwen3"), sites=["embed"]), random_task(2, 4)
    found, atp, relp = (
        fc.node_effects(spliced, task, estimator).features(EMBED) for estimator in ("secant", "atp", "relp")
    )
    assert (found - atp).abs().max() > 1e-2 * found.abs().max()
    assert (found - relp).abs().max() > 1e-2 * found.abs().max()
